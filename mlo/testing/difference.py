"""Derivatives of a solved program by differences that know how accurate they are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Curve = Callable[[float], Tensor]
"""Maps a step along a line to what is observed there, shape ``(m,)``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Difference:
    """The derivative of a curve at 0.

    Attributes:
        value: Shape ``(m,)``.
        error: Estimate of its absolute error, shape ``(m,)``.
        jump: Slope on the right less slope on the left, shape ``(m,)``, where that does not
            vanish with the step; zero where it does.
    """

    value: Tensor
    error: Tensor
    jump: Tensor


def difference(
    curve: Curve, middle: Tensor, *, step: float, accuracy: Tensor, levels: int = 7
) -> Difference:
    """Differentiate by central differences with halved steps and Richardson extrapolation.

    The error of a central difference of a smooth curve falls as the square of the step. Halving
    goes on until two estimates agree to `accuracy`; the best pair is kept.

    Args:
        curve: What is differentiated.
        middle: Its value at 0.
        step: First step.
        accuracy: Absolute error that is good enough, shape ``(m,)``.
        levels: Steps at most, at least 2.

    References:
        Richardson, 1911; Ridders, 1982.

    >>> curve = lambda t: torch.tensor([t, 0.0], dtype=torch.float64).sin()
    >>> found = difference(curve, curve(0.0), step=0.1, accuracy=torch.full((2,), 1e-9))
    >>> [round(float(t), 9) for t in found.value]
    [1.0, 0.0]
    """
    slopes: list[Tensor] = []
    bends: list[Tensor] = []
    value = torch.zeros_like(middle)
    error = torch.full_like(middle, float("inf"))
    extrapolated: list[Tensor] = []
    for level in range(levels):
        width = step / 2**level
        ahead, behind = curve(width), curve(-width)
        slopes.append((ahead - behind) / (2 * width))
        bends.append((ahead - 2 * middle + behind) / width)
        if level:
            extrapolated.append((4 * slopes[-1] - slopes[-2]) / 3)
        if level:
            before = extrapolated[-2] if level > 1 else slopes[-1]
            apart = (extrapolated[-1] - before).abs()
            # The difference of two steps covers a kink that only one of them reaches.
            value = torch.where(apart < error, extrapolated[-1], value)
            error = torch.minimum(apart, error)
            if bool((error <= accuracy).all()):
                break
    # On a smooth curve the second difference over the step halves with it.
    jumps = (bends[-1].abs() > 0.75 * bends[-2].abs()) & (bends[-1].abs() > accuracy)
    return Difference(
        value=value, error=error, jump=torch.where(jumps, bends[-1], torch.zeros_like(value))
    )


def directions(size: int, count: int, seed: int) -> Tensor:
    """Return at most `count` orthonormal random directions, shape ``(min(count, size), size)``.

    >>> directions(3, 5, seed=0).shape
    torch.Size([3, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(size, min(count, size), generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(drawn)
    rows: Tensor = basis.T.contiguous()
    return rows
