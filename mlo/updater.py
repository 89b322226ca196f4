"""One update of one problem: its gradient, a check that it is finite, the optimizer's step."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from mlo import finite, micro_batches, tree
from mlo.context import Context, context_of
from mlo.device import synchronous
from mlo.errors import MloError, NonFiniteError, ProblemError
from mlo.functional import PureLoss, Slot, buffer_slots, checked
from mlo.graph import Graph
from mlo.history import Recorder
from mlo.inner_loss import times
from mlo.point import Point
from mlo.precision import Autocast, LossOverflowError, LossScale
from mlo.ranks import Ranks
from mlo.separable import scalar
from mlo.sweep import Swept, sweep
from mlo.tree import Params


class Moved(NamedTuple):
    """What an update finds, and whether all of it was finite.

    Where the device is waited for anyway, an update that is not finite raises instead.
    """

    swept: Swept
    usable: Tensor
    skipped: bool = False
    """Whether no weight was moved, as the scaled gradient overflowed."""


class Updater:
    """Makes updates ``θ ← U(θ, dF/dθ)`` of single problems, on the last batch of each.

    Args:
        graph: The program.
        device: Where it runs.
        optimizers: The live optimizer of each problem.
        losses: The pure loss of each problem.
        recorders: What records the updates of problems whose response replays them.
        autocast: In which precision losses run; None for full.
        ranks: The processes that share each batch; None if there is but this one.

    Attributes:
        batches: The batch of each problem's last update.
        memories: What responses keep from one call to the next, by target and solved problem.
        scales: The loss scale of each problem, in float16.
    """

    def __init__(
        self,
        graph: Graph,
        device: torch.device,
        optimizers: Mapping[str, Optimizer],
        losses: Mapping[str, PureLoss],
        recorders: Mapping[str, Recorder],
        *,
        autocast: Autocast | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._graph = graph
        self._device = device
        self._optimizers = optimizers
        self._losses = losses
        self._recorders = recorders
        self._ranks = ranks
        # Walking a module costs as much as a small update, so it is done once.
        self._parameters = {n: p.parameters() for n, p in graph.problems.items()}
        self._buffers = {n: buffer_slots(p.module) for n, p in graph.problems.items()}
        if autocast is not None and not isinstance(autocast, Autocast):
            raise MloError(
                f"autocast must be mlo.Autocast(dtype=...) or None, got {type(autocast).__name__}"
            )
        scaled = autocast is not None and autocast.scales
        self.scales = {n: LossScale(autocast) for n in graph.problems if scaled and autocast}
        self.batches: dict[str, Any] = {}
        self.memories: dict[tuple[str, str], dict[str, Any]] = {}
        for loss in losses.values():
            loss.autocast = autocast

    def check_parameters(self) -> None:
        """Refuse modules in which another parameter has taken the place of a trained one.

        Raises:
            ProblemError: If there is one.
        """
        for name, loss in self._losses.items():
            loss.check_parameters(name, self._parameters[name])

    def before_update(self, name: str) -> None:
        """Let the problem's recorder, if it has one, take down the update that is about to come."""
        if name in self._recorders:
            self._recorders[name].before_update(
                self.trained(name), self._optimizers[name], self.batches.get(name), self._device
            )

    def update(self, name: str, round: int) -> Moved:
        """Update one problem on its last batch, but for its scheduler.

        Raises:
            NonFiniteError: If its loss or gradient is not finite; the update is not applied.
        """
        eager = synchronous(self._device)
        scale = self.scales.get(name)
        kept = [(o, k, o[k].clone()) for o, k in self._buffers[name]] if eager or scale else []
        try:
            swept = self._gradient(name)
            usable = finite.is_finite(swept.loss, swept.gradient, swept.size)
            if scale is not None and not usable:
                raise LossOverflowError
            if eager and not usable:
                raise self._non_finite(name, round, swept)
        except BaseException as error:
            # By now running statistics may have taken in the batch that is refused.
            for owner, key, before in kept:
                owner[key].copy_(before)
            if scale is None or not isinstance(error, LossOverflowError):
                raise
            return self._skipped(name, round, scale)
        if scale is not None:
            scale.succeeded()
        gradient, flag = tree.unshared(swept.gradient), torch.as_tensor(usable)
        if not eager:
            gradient = finite.zero_unless(flag, gradient)
        self._step(name, gradient)
        return Moved(swept, flag)

    def trained(self, name: str) -> Params:
        """Return what is trained now: a parameter may be frozen between two rounds."""
        return {n: p for n, p in self._parameters[name].items() if p.requires_grad}

    def _step(self, name: str, gradient: Params) -> None:
        parameters = self.trained(name)
        for key, parameter in parameters.items():
            parameter.grad = gradient.get(key)
        self._optimizers[name].step()
        for parameter in parameters.values():
            parameter.grad = None
        if self._ranks is not None:
            _share_statistics(self._ranks, self._buffers[name])

    def _skipped(self, name: str, round: int, scale: LossScale) -> Moved:
        scale.shrink()
        nothing = Swept(torch.full((), float("nan"), device=self._device), {}, {})
        if scale.is_exhausted:
            raise self._non_finite(name, round, nothing)
        if name in self._recorders:
            self._recorders[name].withdraw()
        return Moved(nothing, torch.ones((), dtype=torch.bool, device=self._device), skipped=True)

    def _gradient(self, name: str) -> Swept:
        problem = self._graph.problems[name]
        scale = self.scales[name].factor if name in self.scales else 1.0
        plan = self._graph.sweeps[name]
        if not plan.order:
            swept = self._direct_gradient(name, scale)
            if problem.clipping is None:
                return swept
            return Swept(swept.loss, problem.clipping.of(swept.gradient, {}), {})
        point = Point(
            values={n: self.trained(n) for n in self._parameters},
            batches=self.batches,
            contexts={n: self._context(name, n) for n in plan.flows},
            losses=self._losses,
            ranks=self._ranks,
        )
        return sweep(self._graph, name, point, moves=True, scale=scale, clipping=problem.clipping)

    def _context(self, target: str, name: str) -> Context:
        recorder = self._recorders.get(name)
        return context_of(
            name,
            self._parameters[name],
            self._optimizers[name],
            memory=self.memories.setdefault((target, name), {}),
            history=None if recorder is None else recorder.history,
        )

    @torch.enable_grad()
    def _direct_gradient(self, name: str, scale: float) -> Swept:
        """Return the gradient of a loss below which nothing responds: plain training."""
        parameters = self.trained(name)
        inputs = list(parameters.values())
        evaluate = self._direct_loss(name)
        each = micro_batches.parts(self.batches.get(name))
        total: Tensor | None = None
        gradient: Params = {}
        for weight, batch in each:
            loss = scalar(times(weight, evaluate(batch)))
            # The rows of one rank may happen to reach no parameter.
            if not loss.requires_grad and self._ranks is None:
                raise _independent(name)
            scaled = loss if scale == 1.0 else loss.float() * scale
            found: list[Tensor | None]
            if self._ranks is not None and len(each) == 1:
                value, found = self._ranks.gradients(scaled, inputs)
                loss = value if scale == 1.0 else value / scale
            elif scaled.requires_grad:
                found = self._losses[name].sharded.gradients(scaled, inputs)
            else:
                found = [None] * len(inputs)
            part = {k: g for k, g in zip(parameters, found, strict=True) if g is not None}
            total = loss.detach() if total is None else total + loss.detach()
            gradient = tree.merged(gradient, part) if gradient else part
        assert total is not None
        if self._ranks is not None and len(each) > 1:
            mean, *means = self._ranks.mean(
                [total, *map(gradient.get, parameters)], like=[total, *inputs]
            )
            assert mean is not None
            total = mean
            gradient = {k: g for k, g in zip(parameters, means, strict=True) if g is not None}
        if self._ranks is not None and not gradient:
            raise _independent(name)
        if scale != 1.0:
            gradient = tree.scaled(gradient, 1 / scale)
        return Swept(total, gradient, {})

    def _direct_loss(self, name: str) -> Callable[[Any], Any]:
        """Return the loss as a function of the batch, its own module where it stands."""
        problem, loss = self._graph.problems[name], self._losses[name]
        reads = self._graph.reads(name)
        if reads != (name,):
            held = {n: tree.constants(self._parameters[n]) for n in reads if n != name}
            return lambda batch: loss.value(held, batch, moves=name, first_order=True)
        chosen = loss.compiled or problem.loss
        takes_batch = name in self.batches

        def evaluate(batch: Any) -> Any:
            with loss.casting():
                taken = {"batch": batch} if takes_batch else {}
                return checked(chosen(**{name: problem.module}, **taken), name)

        return evaluate

    def _non_finite(self, name: str, round: int, swept: Swept) -> NonFiniteError:
        through = "".join(
            f" Through {n!r}: {o.message}." for n, o in swept.outcomes.items() if o.failed
        )
        what = "gradient is not finite" if torch.isfinite(swept.loss) else f"loss is {swept.loss:g}"
        return NonFiniteError(
            f"problem {name!r}, round {round}: {what}, expected a finite number; the update "
            f"was not applied.{through} Lower its learning rate or look at its batch",
            problem=name,
            round=round,
        )


def _share_statistics(ranks: Ranks, buffers: list[Slot]) -> None:
    """Give every rank the mean of the running statistics that each has gathered."""
    floating = [owner[key] for owner, key in buffers if owner[key].is_floating_point()]
    if not floating:
        return
    for buffer, mean in zip(floating, ranks.mean(floating, like=floating), strict=True):
        assert mean is not None
        buffer.copy_(mean)


def _independent(name: str) -> ProblemError:
    return ProblemError(
        f"problem {name!r}: its loss does not depend on any of its parameters; was it computed "
        "under torch.no_grad(), or from .item() or .detach()?"
    )
