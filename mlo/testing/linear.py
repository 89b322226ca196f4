"""Flat float64 vectors: conjugate gradients, Lanczos, and products by central differences."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]
"""A map of vectors of shape ``(n,)``, such as the gradient of a loss."""


class Ritz(NamedTuple):
    """Estimates of the extreme eigenvalues: inside the spectrum, and usually close to its ends."""

    smallest: float
    largest: float


def derivative_along(
    field: Field, point: Tensor, direction: Tensor, *, radius: float = 1e-5
) -> Tensor:
    """``D field(point) direction`` by a central difference, shape ``(m,)``.

    The step moves the point by `radius` of its length, or by `radius` if it is shorter than 1: at
    1e-5 truncation and rounding are both about 1e-10 in float64.

    >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> [round(float(t), 6) for t in derivative_along(torch.square, x, torch.ones_like(x))]
    [2.0, 4.0]
    """
    length = float(direction.norm())
    if length == 0:
        return torch.zeros_like(field(point))
    step = radius * max(1.0, float(point.norm())) / length
    ahead, behind = field(point + step * direction), field(point - step * direction)
    return (ahead - behind) / (2 * step)


class Solve(NamedTuple):
    """The answer of a linear solve and its relative residual."""

    answer: Tensor
    residual: float


def solve_symmetric(
    product: Field, vector: Tensor, *, tolerance: float = 1e-10, steps: int = 500
) -> Solve:
    """Return ``A⁻¹ vector`` for symmetric `A` by conjugate gradients, the best iterate found.

    Curvature of either sign is followed: where `A` is indefinite but regular the iteration usually
    still converges, and whoever asks looks at the eigenvalues anyway.

    >>> solve_symmetric(lambda v: 4 * v, torch.ones(2, dtype=torch.float64)).answer
    tensor([0.2500, 0.2500], dtype=torch.float64)
    """
    answer = best = torch.zeros_like(vector)
    residual = direction = vector
    squared = least = start = float(vector @ vector)
    for _ in range(min(steps, 2 * vector.numel() + 10)):
        if squared <= tolerance**2 * start:
            break
        image = product(direction)
        curvature = float(direction @ image)
        if curvature == 0:
            break
        answer = answer + squared / curvature * direction
        residual = residual - squared / curvature * image
        following = float(residual @ residual)
        if not following < float("inf"):
            break
        if following < least:
            best, least = answer, following
        direction = residual + following / squared * direction
        squared = following
    return Solve(best, (least / start) ** 0.5 if start else 0.0)


class Dense(NamedTuple):
    """A symmetric map as a matrix: its eigenvalues, and its pseudo-inverse as a map."""

    eigenvalues: Ritz
    inverse: Field


def dense(product: Field, like: Tensor) -> Dense:
    """Decompose a symmetric map of vectors of shape ``(n,)`` by `n` products.

    >>> scales = torch.tensor([4.0, -2.0], dtype=torch.float64)
    >>> found = dense(lambda v: scales * v, scales)
    >>> found.eigenvalues, found.inverse(torch.ones(2, dtype=torch.float64)).tolist()
    (Ritz(smallest=-2.0, largest=4.0), [0.25, -0.5])
    """
    rows = [product(unit) for unit in torch.eye(like.numel()).to(like)]
    matrix = torch.stack(rows)
    if not bool(torch.isfinite(matrix).all()):
        return Dense(Ritz(float("nan"), float("nan")), torch.zeros_like)
    values, basis = torch.linalg.eigh((matrix + matrix.T) / 2)
    is_zero = values.abs() <= values.abs().amax() * like.numel() * torch.finfo(like.dtype).eps
    factors = torch.where(is_zero, 0.0, 1 / torch.where(is_zero, 1.0, values))
    extremes = Ritz(float(values[0]), float(values[-1]))
    return Dense(extremes, lambda vector: basis @ (factors * (basis.T @ vector)))


def ritz_values(product: Field, like: Tensor, *, steps: int = 40, seed: int = 0) -> Ritz:
    """Return the extreme Ritz values of a symmetric map: exact if ``steps >= n``.

    Args:
        product: The map.
        like: A vector whose size and device are taken.
        steps: Products spent at most.
        seed: Of the starting vector, drawn from a generator of its own.

    References:
        Lanczos, 1950; with full reorthogonalisation.

    >>> scales = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    >>> [round(value, 6) for value in ritz_values(lambda v: scales * v, scales)]
    [-2.0, 5.0]
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(like.numel(), generator=generator, dtype=torch.float64).to(like.device)
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for _ in range(min(steps, like.numel())):
        image = product(basis[-1])
        diagonal.append(image @ basis[-1])
        span = torch.stack(basis)
        # Twice is enough, says Parlett; once is not.
        for _ in range(2):
            image = image - span.T @ (span @ image)
        length = image.norm()
        if not float(length) > 1e-9 * float(torch.stack(diagonal).abs().max()):
            break
        beside.append(length)
        basis.append(image / length)
    size = len(diagonal)
    off = torch.stack(beside)[: size - 1] if beside and size > 1 else start.new_zeros(0)
    matrix = torch.diag(torch.stack(diagonal)) + torch.diag(off, 1) + torch.diag(off, -1)
    if not bool(torch.isfinite(matrix).all()):
        return Ritz(float("nan"), float("nan"))
    values = torch.linalg.eigvalsh(matrix)
    return Ritz(float(values[0]), float(values[-1]))
