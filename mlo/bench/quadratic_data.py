"""The simulated quadratic of the public bilevel benchmark, in factors instead of matrices.

Both objectives are means over samples of

    ½ (s·z)² + ½ (r·x)² + (u·x)(w·z) + a·z + b·x        z: inner variable, x: outer variable

where every capital letter of the published definition, ``A_i = s sᵀ`` and so on, is an outer
product. Keeping the factors takes 45 MB instead of 1.5 GB at the published size and turns each
product with a Hessian into two products with a thin matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

BATCH: Final = 64
"""Samples in a minibatch; one oracle call is one derivative on one of these."""

_SMALLEST, _LARGEST, _CROSS = 0.1, 1.0, 0.1
_TRIALS = 20


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large an instance is.

    Attributes:
        name: Name in tables.
        inner_samples: Samples of the inner objective.
        outer_samples: Samples of the outer objective.
        inner: Entries of the inner variable.
        outer: Entries of the outer variable.
    """

    name: str
    inner_samples: int
    outer_samples: int
    inner: int
    outer: int


BIG: Final = Size(name="big", inner_samples=32768, outer_samples=1024, inner=100, outer=10)
"""The configuration for which the published steps were tuned."""

SMALL: Final = Size(name="small", inner_samples=1024, outer_samples=1024, inner=100, outer=100)
"""The defaults of the published data set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """A mean of quadratics, sample by sample in factors; first-order and second-order products.

    Attributes:
        inner: ``s``, shape ``(samples, p)``.
        outer: ``r``, shape ``(samples, d)``.
        cross_outer: ``u``, shape ``(samples, d)``.
        cross_inner: ``w``, shape ``(samples, p)``.
        linear_inner: ``a``, shape ``(samples, p)``.
        linear_outer: ``b``, shape ``(samples, d)``.
    """

    inner: Tensor
    outer: Tensor
    cross_outer: Tensor
    cross_inner: Tensor
    linear_inner: Tensor
    linear_outer: Tensor

    def loss(self, z: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """Return the mean over the samples `rows`, a 0-dim tensor that autograd follows."""
        square = (self.inner[rows] @ z).square() + (self.outer[rows] @ x).square()
        cross = (self.cross_outer[rows] @ x) * (self.cross_inner[rows] @ z)
        linear = self.linear_inner[rows] @ z + self.linear_outer[rows] @ x
        return (square / 2 + cross + linear).mean()

    def gradient_inner(self, z: Tensor, x: Tensor, rows: slice) -> Tensor:
        """Return ``∇_z`` of the mean over the samples `rows`, shape ``(p,)``."""
        s, w = self.inner[rows], self.cross_inner[rows]
        moving = (s @ z) @ s + (self.cross_outer[rows] @ x) @ w
        return moving / len(s) + self.linear_inner[rows].mean(0)

    def gradient_outer(self, z: Tensor, x: Tensor, rows: slice) -> Tensor:
        """Return ``∇_x`` of the mean over the samples `rows`, shape ``(d,)``."""
        r, u = self.outer[rows], self.cross_outer[rows]
        moving = (r @ x) @ r + (self.cross_inner[rows] @ z) @ u
        return moving / len(r) + self.linear_outer[rows].mean(0)

    def hessian(self, v: Tensor, rows: slice) -> Tensor:
        """Return ``∇²_zz v`` of the mean over the samples `rows`, shape ``(p,)``."""
        s = self.inner[rows]
        return (s @ v) @ s / len(s)

    def mixed(self, v: Tensor, rows: slice) -> Tensor:
        """Return ``∇²_xz v`` of the mean over the samples `rows`, shape ``(d,)``."""
        u = self.cross_outer[rows]
        return (self.cross_inner[rows] @ v) @ u / len(u)


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """An inner and an outer objective, ``h(x) = f(x, z*(x))`` with ``z*(x) = argmin_z g(x, z)``.

    Attributes:
        size: How large it is.
        lower: ``g``.
        upper: ``f``.
    """

    size: Size
    lower: Objective
    upper: Objective

    @property
    def start(self) -> tuple[Tensor, Tensor]:
        """Return the published start: ``z = 0`` and ``x = -2`` in every entry."""
        return torch.zeros(self.size.inner), torch.full((self.size.outer,), -2.0)

    def squared_norm(self, x: Tensor) -> Tensor:
        """Return ``‖∇h(x)‖²``, over all samples and in closed form, for each row of `x`.

        ``∇h`` is affine, as both objectives are quadratic: ``∇h(x) = M x + q``.
        """
        matrix, offset = self.affine
        return (x.double() @ matrix.T + offset).square().sum(-1)

    @cached_property
    def affine(self) -> tuple[Tensor, Tensor]:
        """Return ``M`` and ``q`` with ``∇h(x) = M x + q``, float64."""
        low, up = _means(self.lower), _means(self.upper)
        jacobian = -torch.linalg.solve(low.inner, low.cross.T)
        constant = -torch.linalg.solve(low.inner, low.linear_inner)
        matrix = up.outer + up.cross @ jacobian + jacobian.T @ (up.inner @ jacobian + up.cross.T)
        offset = (
            up.linear_outer
            + up.cross @ constant
            + jacobian.T @ (up.inner @ constant + up.linear_inner)
        )
        return matrix, offset

    @property
    def accepted_by(self) -> float:
        """Return the eigenvalue that the published generator requires to be ≥ 1e-12.

        It halves the cross term of the value function's Hessian, so it is not that of `affine`.
        """
        low, up = _means(self.lower), _means(self.upper)
        jacobian = -torch.linalg.solve(low.inner, low.cross.T)
        cross = up.cross @ jacobian
        hessian = jacobian.T @ up.inner @ jacobian + up.outer + (cross + cross.T) / 2
        return float(torch.linalg.eigvalsh(hessian).min())


def draw(size: Size, *, seed: int) -> Instance:
    """Return an instance of the published distribution.

    The published generator is JAX's, this one is torch's: the distribution is the same, the numbers
    are not. Inner Hessians have eigenvalues from 0.1 to 1, outer ones those and a zero, singular
    values of the cross terms are 0.1. Draws whose value function is not convex are drawn again.

    Raises:
        ArithmeticError: If no draw is convex, which has not been seen.

    References:
        Dagréou, Ablin, Vaiter and Moreau, 2022, arXiv 2201.13409 (benchmark_bilevel).

    >>> instance = draw(SMALL, seed=0)
    >>> instance.squared_norm(instance.start[1]).shape
    torch.Size([])
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_TRIALS):
        lower = _objective(size.inner_samples, size, generator)
        upper = _objective(size.outer_samples, size, generator)
        instance = Instance(size=size, lower=lower, upper=upper)
        if instance.accepted_by >= 1e-12:
            return instance
    raise ArithmeticError(f"seed {seed}: no convex value function in {_TRIALS} draws, expected one")


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """Contiguous blocks of rows in random order, another at each iteration: published sampling.

    Attributes:
        samples: Number of rows; a multiple of `BATCH`.
        generator: Decides the order.
    """

    samples: int
    generator: torch.Generator

    def starts(self) -> Iterator[int]:
        """Yield first rows for ever; the first pass is in order, as in the published sampler."""
        order = torch.arange(self.samples // BATCH)
        while True:
            yield from (order * BATCH).tolist()
            order = torch.randperm(len(order), generator=self.generator)

    def slices(self) -> Iterator[slice]:
        """Yield slices of `BATCH` rows for ever."""
        return (slice(start, start + BATCH) for start in self.starts())

    def __iter__(self) -> Iterator[Tensor]:
        """Yield index tensors of shape ``(BATCH,)`` for ever."""
        return (torch.arange(start, start + BATCH) for start in self.starts())


def blocks(samples: int, *, seed: int) -> Blocks:
    """Return the batches of `samples` rows.

    >>> next(iter(blocks(128, seed=0)))[:3]
    tensor([0, 1, 2])
    """
    return Blocks(samples=samples, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Means:
    """The mean of an `Objective` over all samples, float64."""

    inner: Tensor
    outer: Tensor
    cross: Tensor
    linear_inner: Tensor
    linear_outer: Tensor


def _means(objective: Objective) -> _Means:
    def product(left: Tensor, right: Tensor) -> Tensor:
        return left.double().T @ right.double() / len(left)

    return _Means(
        inner=product(objective.inner, objective.inner),
        outer=product(objective.outer, objective.outer),
        cross=product(objective.cross_outer, objective.cross_inner),
        linear_inner=objective.linear_inner.double().mean(0),
        linear_outer=objective.linear_outer.double().mean(0),
    )


def _objective(samples: int, size: Size, generator: torch.Generator) -> Objective:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def roots(count: int) -> Tensor:
        ends = torch.tensor([_SMALLEST, _LARGEST]).log10() / 2
        return torch.logspace(float(ends[0]), float(ends[1]), count)

    def correlated(entries: int, spectrum: Tensor) -> Tensor:
        basis, _, _ = torch.linalg.svd(normal(entries, 1))
        factor: Tensor = normal(samples, entries) @ (basis * spectrum @ basis.T)
        return factor

    s = correlated(size.inner, roots(size.inner))
    r = correlated(size.outer, torch.cat([torch.zeros(1), roots(size.outer - 1)]))
    left, _, right = torch.linalg.svd(normal(size.outer, size.inner))
    count = min(size.outer, size.inner)
    scale = torch.tensor([_SMALLEST, _CROSS]).log10()
    values = torch.logspace(float(scale[0]), float(scale[1]), count)
    t = normal(samples, size.inner)
    return Objective(
        inner=s,
        outer=r,
        cross_outer=t[:, :count] * values @ left[:, :count].T,
        cross_inner=t @ right.T,
        linear_inner=normal(samples, size.inner),
        linear_outer=normal(samples, size.outer),
    )
