"""Separable losses: one loss an example, and one weight for each.

In reweighting, coreset selection, pruning and grouping the upper variables enter an inner loss only
through the weights of its examples, ``g = Σ_i w_i(a) ℓ_i(θ)``. Then

    vᵀ ∂²g/∂θ∂a = Σ_i (∇ℓ_i·v) ∂w_i/∂a

takes one forward-mode pass of the losses along v and one backward pass of the weights. No finite
difference is involved, whose error on a ReLU network can be as large as the answer, and no double
backward. Losses are never differentiated backwards through their forward-mode pass, which current
torch gets wrong through normalisation layers in train mode.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlo.errors import ProblemError


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted:
    """``mean_i w_i ℓ_i``, or ``Σ_i w_i ℓ_i / Σ_i w_i`` if normalised; made by `weighted`.

    Attributes:
        losses: One loss an example, of any shape.
        weights: One weight for each, of the same shape.
        normalized: Whether the weights are divided by their sum.
        rest: What is added to the weighted loss, such as a penalty; a 0-dim tensor.
    """

    losses: Tensor
    weights: Tensor
    normalized: bool = False
    rest: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The whole loss, a 0-dim tensor."""
        total = self.combined(self.losses)
        return total if self.rest is None else total + self.rest

    def combined(self, losses: Tensor) -> Tensor:
        """Return the weighted mean of other losses, a 0-dim tensor."""
        if self.normalized:
            return (self.weights * losses).sum() / self.weights.sum()
        return (self.weights * losses).mean()

    def __add__(self, other: "Weighted | Tensor | float") -> "Weighted":
        added = other.value if isinstance(other, Weighted) else other
        rest = torch.as_tensor(added, device=self.losses.device)
        return replace(self, rest=rest if self.rest is None else self.rest + rest)

    __radd__ = __add__

    def __mul__(self, factor: Tensor | float) -> "Weighted":
        rest = None if self.rest is None else self.rest * factor
        return replace(self, losses=self.losses * factor, rest=rest)

    __rmul__ = __mul__

    def __neg__(self) -> "Weighted":
        return self * -1.0

    def __sub__(self, other: "Weighted | Tensor | float") -> "Weighted":
        return self + -other

    def __rsub__(self, other: Tensor | float) -> "Weighted":
        return -self + other

    def __truediv__(self, divisor: Tensor | float) -> "Weighted":
        return self * (1.0 / divisor)


class Separability:
    """Whether a weighted loss may be differentiated in forward mode; found out at its first use.

    Forward mode does not know of ``torch.no_grad()``: what a loss computes there is a constant of
    its gradient, but not of its tangent.

    Attributes:
        holds: None before the first use.
    """

    def __init__(self) -> None:
        self.holds: bool | None = None


def weighted(losses: Tensor, weights: Tensor, *, normalized: bool = False) -> Weighted:
    """``mean_i w_i ℓ_i``, as a loss whose weights carry the upper variables.

    A problem's loss may return this in place of a number; a penalty may be added to it. Where the
    losses do not depend on what the weights read, and the weights not on the problem's own
    parameters, mixed second derivatives are taken the exact and cheap way; elsewhere this is the
    same as returning the number.

    Args:
        losses: One loss an example, of any shape.
        weights: One weight for each, of the same shape.
        normalized: Divide by the sum of the weights instead of their number.

    Raises:
        ProblemError: If the shapes differ, as they would be broadcast in silence.

    References:
        Ren et al., 2018, arXiv 1803.09050, for weights that are learned.

    >>> weighted(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.5])).value
    tensor(1.2500)
    >>> weighted(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0]), normalized=True).value
    tensor(1.5000)
    """
    if not isinstance(losses, Tensor) or not isinstance(weights, Tensor):
        raise ProblemError(
            "weighted: losses and weights must be tensors, got "
            f"{type(losses).__name__} and {type(weights).__name__}"
        )
    if losses.shape != weights.shape:
        raise ProblemError(
            f"weighted: losses and weights must have the same shape, got {tuple(losses.shape)} "
            f"and {tuple(weights.shape)}"
        )
    return Weighted(losses=losses, weights=weights, normalized=normalized)


LossValue = Tensor | Weighted
"""What a loss returns: a 0-dim tensor, or its losses and weights."""


def scalar(loss: LossValue) -> Tensor:
    """Return the loss as a 0-dim tensor.

    >>> scalar(weighted(torch.ones(2), torch.ones(2)))
    tensor(1.)
    """
    return loss.value if isinstance(loss, Weighted) else loss
