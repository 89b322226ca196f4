"""The inner loss that a response differentiates."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mlo import tree
from mlo.parallel.sharded import NOT_SHARDED, Sharded
from mlo.parallel.sharded_tensors import local
from mlo.randomness import Replay, State
from mlo.ranks import Ranks
from mlo.separable import LossValue, Separability, scalar
from mlo.tree import Params

Upstream = dict[str, Params]
"""Parameters of the problems that an inner loss reads, by problem name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inner:
    """``(solution, upstream) -> g``: pure, and with the same random numbers at every call.

    Attributes:
        evaluate: ``(solution, upstream, batch) -> loss``.
        batch: What the loss is evaluated on.
        replay: The random numbers of its calls.
        returns_weighted: Whether the loss returns its losses and weights; None if not known.
        separability: What has been found out about it.
        own: The problem's own parameters as variables, where they stand; None if not at hand.
        above: Those of the problems that it reads, likewise.
        compiled: As `evaluate`, for callers that differentiate it once and backwards only; None if
            there is none.
        precise: As `evaluate`, in full precision; None where that is in full precision itself.
        ranks: The processes over which the loss is a mean; None where each has all of it. Its
            derivatives in the solution are then the mean's, on every rank; those in what it reads
            stay each rank's own, and the sweep takes their mean.
        sharded: The parameters of the modules it reads that `fully_shard` has sharded.
        parts: Where the batch is `MicroBatches`, the loss on each, with its weight.
    """

    evaluate: Callable[[Params, Upstream, Any], LossValue]
    batch: Any = None
    replay: Replay = field(default_factory=lambda: Replay(torch.device("cpu")))
    returns_weighted: bool | None = None
    separability: Separability = field(default_factory=Separability)
    own: Params | None = None
    above: Mapping[str, Params] = field(default_factory=dict)
    compiled: Callable[[Params, Upstream, Any], LossValue] | None = None
    precise: Callable[[Params, Upstream, Any], LossValue] | None = None
    ranks: Ranks | None = None
    sharded: Sharded = NOT_SHARDED
    parts: "tuple[tuple[float, Inner], ...]" = ()

    def __call__(self, solution: Params, upstream: Upstream) -> Tensor:
        """Return ``g(solution; upstream)``, a 0-dim tensor."""
        return scalar(self.value(solution, upstream))

    def value(self, solution: Params, upstream: Upstream) -> LossValue:
        """Return what the loss returned: a 0-dim tensor, or its losses and weights."""
        if self.parts:
            values = [scalar(part.value(solution, upstream)) * w for w, part in self.parts]
            return torch.stack(values).sum()
        if self.ranks is not None:
            own = self.local()
            read = [t for params in upstream.values() for t in params.values()]
            return self.ranks.everywhere(
                lambda moved: own.value(moved, upstream), solution, reads=read
            )
        return self.replay(self.evaluate, solution, upstream, self.batch)

    def local(self) -> "Inner":
        """Return this rank's own loss."""
        return self if self.ranks is None else replace(self, ranks=None)

    def first_order(self) -> "Inner":
        """Return the same loss for a caller that differentiates it once and backwards only.

        That is the compiled loss, where there is one: compiled functions have no second and no
        forward-mode derivative.
        """
        if self.compiled is None:
            return self
        parts = tuple((weight, part.first_order()) for weight, part in self.parts)
        return replace(self, evaluate=self.compiled, parts=parts)

    def standing_at(self, solution: Params) -> AbstractContextManager[Params]:
        """Let sharded parameters stand at `solution` meanwhile; see `Sharded.standing_at`."""
        return self.sharded.standing_at(self.own, solution)

    def full_precision(self) -> "Inner":
        """Return the same loss for a caller that subtracts derivatives of it."""
        if self.precise is None:
            return self
        parts = tuple((weight, part.full_precision()) for weight, part in self.parts)
        return replace(self, evaluate=self.precise, compiled=None, precise=None, parts=parts)

    def variables(self, solution: Params, upstream: Upstream) -> tuple[Params, Upstream]:
        """Return both as variables: the parameters themselves where nothing has moved.

        Losses find those in place already, so that nothing has to be exchanged for an evaluation.
        """
        return _variables(solution, self.own), self.above_variables(upstream)

    def above_variables(self, upstream: Upstream) -> Upstream:
        """Return upstream tensors as variables; see `variables`."""
        return {n: _variables(params, self.above.get(n)) for n, params in upstream.items()}

    def on(self, batch: Any, state: State | None = None) -> "Inner":
        """Return the same loss on another batch, with the random numbers that follow `state`.

        Without a state its first call draws as the generators then stand.
        """
        return replace(self, batch=batch, replay=Replay(self.replay.device, state), parts=())


def _variables(given: Params, present: Params | None) -> Params:
    if present is not None and all(
        local(given[name]).data_ptr() == local(t).data_ptr() for name, t in present.items()
    ):
        return present
    return tree.leaves(given)


def inner_of(loss: "Inner | Callable[[Params, Upstream], LossValue]") -> Inner:
    """Return `loss`, a plain function of solution and upstream wrapped.

    >>> inner_of(lambda solution, upstream: solution["x"].square())({"x": torch.tensor(3.0)}, {})
    tensor(9.)
    """
    if isinstance(loss, Inner):
        return loss
    function = loss
    return Inner(evaluate=lambda solution, upstream, _: function(solution, upstream))
