"""Bounds on the norms of a hypergradient's two parts."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlo import tree
from mlo.errors import ProblemError
from mlo.tree import Params


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """``g ↦ g · min(1, bound / ‖g‖)``, for the direct and the indirect part of a gradient.

    The direct part is ``∂F/∂θ``, the indirect one what comes back through the problems below. A
    solve that goes astray then cannot drown the direct part. A problem below which nothing responds
    has a direct part only.

    Attributes:
        direct: Bound on the norm of the direct part; None for none.
        indirect: Bound on the norm of the indirect part; None for none.
        total: Bound on the norm of their sum, applied last; None for none.

    Raises:
        ProblemError: If a bound is not positive, or none is given.

    References:
        Pascanu, Mikolov and Bengio, 2013, arXiv 1211.5063.

    >>> Clipping(direct=1.0).of({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([5.0, 0.0])})
    {'w': tensor([5.6000, 0.8000])}
    """

    direct: float | None = None
    indirect: float | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        bounds = {"direct": self.direct, "indirect": self.indirect, "total": self.total}
        for name, bound in bounds.items():
            is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
            if bound is not None and not (is_number and 0 < bound < math.inf):
                raise ProblemError(f"clipping: {name} must be a number > 0 or None, got {bound!r}")
        if all(bound is None for bound in bounds.values()):
            raise ProblemError("clipping: give at least one of direct, indirect and total")

    def of(self, direct: Params, indirect: Params) -> Params:
        """Return the sum of both parts, each within its bound."""
        both = tree.merged(_within(direct, self.direct), _within(indirect, self.indirect))
        return _within(both, self.total)


def _within(part: Params, bound: float | None) -> Params:
    if bound is None or not part:
        return part
    return tree.scaled(part, _factor(tree.norm(part), bound))


def _factor(length: Tensor, bound: float) -> Tensor:
    # A norm of zero clips nothing. One that is not finite, be it that the squares of finite entries
    # overflow, makes the gradient NaN, so that the update is refused and not replaced by zero.
    factor = torch.where(length > bound, bound / length, torch.ones_like(length))
    return torch.where(torch.isfinite(length), factor, torch.full_like(length, math.nan))
