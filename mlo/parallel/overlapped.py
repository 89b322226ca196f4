"""Gradients whose mean over ranks is taken while the backward pass still goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mlo.parallel.bucket import Bucket, Spec, by_dtype, spec_of
from mlo.parallel.collectives import Collectives
from mlo.parallel.reduction import Layout, Reduction

BUCKET_BYTES = 25 * 2**20
_KIND = "gradients"


@dataclass(kw_only=True)
class _Plan:
    """How the gradients of one list of inputs are reduced; alike on all ranks.

    Attributes:
        layout: What is known of their forms.
        order: Positions in the order in which the gradients of rank 0 were last seen to be ready.
        buckets: Positions that travel together, in the order in which buckets begin.
    """

    layout: Layout
    order: list[int]
    buckets: list[list[int]] = field(default_factory=list)


class OverlappedGradients:
    """``mean_r ∇loss_r`` where buckets of gradients are reduced as soon as they are ready.

    All ranks begin the same buckets in the same order: those of a rank whose loss does not depend
    on some input begin after its backward pass, with zeros. The first call finds out which
    gradients are dense and in which order they come, and overlaps nothing.

    Args:
        collectives: The operations.
        bucket_bytes: A bucket ends with the tensor that makes it as large as this.
    """

    def __init__(self, collectives: Collectives, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._collectives = collectives
        self._bucket_bytes = bucket_bytes
        self._reduction = Reduction(collectives, _KIND)
        self._plans: dict[tuple[Spec, ...], _Plan] = {}

    def __call__(
        self, loss: Tensor, inputs: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the means over ranks of the loss and of its gradient.

        A gradient is None where it is None on every rank, and sparse where no rank has it dense.

        Args:
            loss: A 0-dim tensor; it need not depend on anything on this rank.
            inputs: What it is differentiated in.

        Raises:
            ParallelError: If another rank has died or failed.
        """
        value = loss.detach()
        # The loss travels as one more gradient, which is ready from the start.
        specs = [spec_of(tensor) for tensor in (*inputs, value)]
        plan = self._plan_of(specs)
        known = list(plan.layout.forms)
        sending = _Sending(self._collectives, plan)
        sending.receiver(len(inputs))(value)
        found: Sequence[Tensor | None] = [None] * len(inputs)
        hooks = []
        try:
            for position, tensor in enumerate(inputs):
                # Published without types.
                hook = tensor.register_hook(sending.receiver(position))  # type: ignore[no-untyped-call]
                hooks.append(hook)
            if loss.requires_grad and inputs:
                found = torch.autograd.grad(loss, list(inputs), allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        buckets = sending.finish()
        *gradients, mean = self._reduction.ended([*found, value], plan.layout, buckets)
        assert mean is not None
        if plan.layout.forms != known:
            self._rearrange(plan, sending.came)
        return mean, gradients

    def _plan_of(self, specs: Sequence[Spec]) -> _Plan:
        key = tuple(specs)
        if key not in self._plans:
            layout = self._reduction.layout(specs)
            plan = _Plan(layout=layout, order=list(range(len(specs))))
            self._plans[key] = plan
            self._divide(plan)
        return self._plans[key]

    def _rearrange(self, plan: _Plan, came: Sequence[int]) -> None:
        """Take over the order of rank 0, of which ranks with other rows may differ."""
        rest = [position for position in plan.order if position not in set(came)]
        order = torch.tensor([*came, *rest])
        self._collectives.spread_(order, "plans")
        plan.order = order.tolist()
        self._divide(plan)

    def _divide(self, plan: _Plan) -> None:
        dense = set(plan.layout.dense)
        specs = plan.layout.specs
        buckets: list[list[int]] = []
        for part in by_dtype({p: specs[p] for p in plan.order if p in dense}):
            room = 0
            for position, spec in part.items():
                if room <= 0:
                    buckets.append([])
                    room = self._bucket_bytes
                buckets[-1].append(position)
                room -= spec.bytes
        # The one that is full first begins first, whatever its dtype.
        buckets.sort(key=lambda positions: plan.order.index(positions[-1]))
        # Of what is not dense it is only asked who has it, when the backward pass is over.
        others = by_dtype({p: spec for p, spec in specs.items() if p not in dense})
        plan.buckets = [*buckets, *map(list, others)]


class _Sending:
    """The buckets of one backward pass.

    Attributes:
        came: Positions in the order in which they came.
    """

    def __init__(self, collectives: Collectives, plan: _Plan) -> None:
        self._collectives = collectives
        self._plan = plan
        self._home = {p: number for number, each in enumerate(plan.buckets) for p in each}
        # Made when they are first used, as activations still take up memory.
        self._buckets: dict[int, Bucket] = {}
        self._begun = 0
        self.came: list[int] = []

    def receiver(self, position: int) -> Callable[[Tensor], Tensor]:
        """Return what a gradient is given to; it returns the gradient, in its bucket by then."""

        def receive(gradient: Tensor) -> Tensor:
            self.came.append(position)
            placed = self._bucket(self._home[position]).fill(position, gradient)
            while self._begun in self._buckets and self._buckets[self._begun].is_full:
                self._begin_next()
            return placed

        return receive

    def finish(self) -> list[Bucket]:
        """Begin what has not begun, and return all buckets."""
        while self._begun < len(self._plan.buckets):
            self._begin_next()
        return list(self._buckets.values())

    def _bucket(self, number: int) -> Bucket:
        if number not in self._buckets:
            layout = self._plan.layout
            specs = {p: layout.specs[p] for p in self._plan.buckets[number]}
            self._buckets[number] = Bucket(specs, layout.dense)
        return self._buckets[number]

    def _begin_next(self) -> None:
        self._bucket(self._begun).begin(self._collectives, _KIND)
        self._begun += 1
