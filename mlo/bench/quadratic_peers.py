"""Published stochastic bilevel solvers, written anew as plain loops on the simulated quadratic.

They are re-implementations, for comparisons on one instance in one unit: an oracle call is one
stochastic gradient, Hessian product or mixed product on one minibatch. Steps are ``c·k^-e``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from torch import Tensor

from mlo.bench.quadratic_data import Instance, blocks

Steps = Iterator[tuple[int, Tensor]]
"""Oracle calls so far and the outer variable, once an iteration."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A published solver with its steps.

    Attributes:
        name: As in the publication.
        calls: Oracle calls of one iteration.
        run: Makes the iterations on an instance, from the seed of the minibatches.
    """

    name: str
    calls: int
    run: Callable[[Instance, int], Steps]


def soba(
    *,
    step: float,
    outer_step: float,
    linear_step: float | None = None,
    exponent: float = 0.5,
    outer_exponent: float = 0.5,
    slowing: float = 1.0,
) -> Peer:
    """One step each of ``z``, ``v ≈ H⁻¹∇_z f`` and ``x``, at the same point and minibatch.

    Args:
        step: Of ``z`` at the first iteration.
        outer_step: Of ``x``, likewise.
        linear_step: Of ``v``; that of ``z`` if None, as published.
        exponent: e of ``z`` and ``v``, which fall as ``(1 + (k-1)/slowing)^-e``.
        outer_exponent: e of ``x``.
        slowing: Iterations after which steps fall; 1 gives the published ``k^-e``.

    References:
        Dagréou, Ablin, Vaiter and Moreau, 2022, arXiv 2201.13409.

    >>> soba(step=0.1, outer_step=0.1).calls
    4
    """
    step_v = step if linear_step is None else linear_step

    def run(instance: Instance, seed: int) -> Steps:
        lower, upper = instance.lower, instance.upper
        inner_rows, outer_rows = _rows(instance, seed)
        z, x = instance.start
        v = z.clone()
        for k in count(1):
            rows, others = next(inner_rows), next(outer_rows)
            time = 1 + (k - 1) / slowing
            scale, outer_scale = time**-exponent, time**-outer_exponent
            move_z = lower.gradient_inner(z, x, rows)
            move_v = lower.hessian(v, rows) - upper.gradient_inner(z, x, others)
            move_x = upper.gradient_outer(z, x, others) - lower.mixed(v, rows)
            z, v = z - step * scale * move_z, v - step_v * scale * move_v
            x = x - outer_step * outer_scale * move_x
            yield 4 * k, x

    return Peer(name="SOBA", calls=4, run=run)


def stocbio(*, step: float, outer_step: float, inner_steps: int = 10, terms: int = 10) -> Peer:
    """Steps of ``z``, then a Neumann series of which each term has a minibatch of its own.

    Args:
        step: Of ``z`` and of the series.
        outer_step: Of ``x``.
        inner_steps: Steps of ``z`` an iteration.
        terms: Hessian products an iteration.

    References:
        Ji, Yang and Liang, 2021, arXiv 2010.07962.

    >>> stocbio(step=0.1, outer_step=0.1).calls
    22
    """

    def run(instance: Instance, seed: int) -> Steps:
        lower, upper = instance.lower, instance.upper
        inner_rows, outer_rows = _rows(instance, seed)
        z, x = instance.start
        z = _descended(instance, z, x, inner_rows, step, inner_steps)
        for k in count(1):
            others = next(outer_rows)
            term = v = upper.gradient_inner(z, x, others)
            for _ in range(terms):
                term = term - step * lower.hessian(term, next(inner_rows))
                v = v + term
            indirect = lower.mixed(step * v, next(inner_rows))
            x = x - outer_step * (upper.gradient_outer(z, x, others) - indirect)
            z = _descended(instance, z, x, inner_rows, step, inner_steps)
            yield inner_steps + (inner_steps + terms + 2) * k, x

    return Peer(name="stocBiO", calls=inner_steps + terms + 2, run=run)


def amigo(*, step: float, outer_step: float, inner_steps: int = 10) -> Peer:
    """Steps of ``z`` and as many of ``v``, both from where they ended, then one of ``x``.

    Args:
        step: Of ``z`` and ``v``.
        outer_step: Of ``x``.
        inner_steps: Steps of ``z``, and of ``v``, an iteration.

    References:
        Arbel and Mairal, 2022, arXiv 2111.14580.

    >>> amigo(step=0.01, outer_step=0.1).calls
    22
    """

    def run(instance: Instance, seed: int) -> Steps:
        lower, upper = instance.lower, instance.upper
        inner_rows, outer_rows = _rows(instance, seed)
        z, x = instance.start
        v = z.clone()
        z = _descended(instance, z, x, inner_rows, step, inner_steps)
        for k in count(1):
            others = next(outer_rows)
            target = upper.gradient_inner(z, x, others)
            for _ in range(inner_steps):
                v = v - step * (lower.hessian(v, next(inner_rows)) - target)
            indirect = lower.mixed(v, next(inner_rows))
            x = x - outer_step * (upper.gradient_outer(z, x, others) - indirect)
            z = _descended(instance, z, x, inner_rows, step, inner_steps)
            yield inner_steps + (2 * inner_steps + 2) * k, x

    return Peer(name="AmIGO", calls=2 * inner_steps + 2, run=run)


def f2sa(
    *,
    step: float,
    outer_step: float,
    growth: float = 0.01,
    strength: float = 1.0,
    inner_steps: int = 10,
) -> Peer:
    """First-order only: ``x`` follows ``∇_x f + λ(∇_x g(x, y) - ∇_x g(x, z))`` while λ grows.

    ``y`` descends ``f + λg`` and ``z`` descends ``g``; the bias is O(1/λ). The exponents are those
    of the published code: 5/7 for ``y``, 4/7 for ``z`` and ``x``, 1/7 for the growth of λ.

    Args:
        step: Of ``y`` and ``z`` at the first iteration.
        outer_step: Of ``x``, likewise.
        growth: What the first iteration adds to λ.
        strength: λ at the start.
        inner_steps: Steps of ``y`` and ``z`` an iteration.

    References:
        Kwon, Kwon, Wright and Nowak, 2023, arXiv 2301.10945.

    >>> f2sa(step=0.1, outer_step=0.1).calls
    33
    """
    calls = 3 * inner_steps + 3

    def run(instance: Instance, seed: int) -> Steps:
        lower, upper = instance.lower, instance.upper
        inner_rows, outer_rows = _rows(instance, seed)
        z, x = instance.start
        y, weight = z.clone(), strength
        for k in count(1):
            slow, slower = step * k ** (-4 / 7), step * k ** (-5 / 7)
            for _ in range(inner_steps):
                move_z = lower.gradient_inner(z, x, next(inner_rows))
                move_y = weight * lower.gradient_inner(y, x, next(inner_rows))
                move_y = move_y + upper.gradient_inner(y, x, next(outer_rows))
                z, y = z - slow * move_z, y - slower * move_y
            direct = upper.gradient_outer(y, x, next(outer_rows))
            ahead = lower.gradient_outer(y, x, next(inner_rows))
            behind = lower.gradient_outer(z, x, next(inner_rows))
            x = x - outer_step * k ** (-4 / 7) * (direct + weight * (ahead - behind))
            weight += growth * k ** (-1 / 7)
            yield calls * k, x

    return Peer(name="F2SA", calls=calls, run=run)


def _descended(
    instance: Instance, z: Tensor, x: Tensor, rows: Iterator[slice], step: float, steps: int
) -> Tensor:
    for _ in range(steps):
        z = z - step * instance.lower.gradient_inner(z, x, next(rows))
    return z


def _rows(instance: Instance, seed: int) -> tuple[Iterator[slice], Iterator[slice]]:
    """Return the minibatches of the inner and of the outer objective."""
    size = instance.size
    inner = blocks(size.inner_samples, seed=2 * seed)
    return inner.slices(), blocks(size.outer_samples, seed=2 * seed + 1).slices()
