"""Means over seeds and their standard errors."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlo.report.thinning import Floats, Thinned

_SEED: Final = re.compile(r"(?:(.*)/)?seed-([^/]+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean, its standard error if there are two values or more, and their number."""

    mean: float
    error: float | None
    n: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """The curve of one seed."""

    seed: str
    steps: Floats
    values: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Averaged:
    """One number over time, averaged over seeds.

    Attributes:
        steps: `(points,)`, ascending.
        mean: `(points,)`; of one seed the curve, or where that is thinned the means of its buckets.
        error: `(points,)` standard error of the mean; None for one seed.
        members: The seeds.
        last: Estimate from the newest value of every seed.
    """

    steps: Floats
    mean: Floats
    error: Floats | None
    members: tuple[Member, ...]
    last: Estimate


def split_seed(scope: str) -> tuple[str, str | None]:
    """Return what a scope is a seed of, and the seed; the scope itself and None if it is none.

    >>> split_seed("lbg_soft/seed-3"), split_seed("seed-0"), split_seed("a/seed-0/b")
    (('lbg_soft', '3'), ('', '0'), ('a/seed-0/b', None))
    """
    match = _SEED.fullmatch(scope)
    return (match[1] or "", match[2]) if match else (scope, None)


def estimate_of(values: Sequence[float]) -> Estimate:
    """Return the mean of n ≥ 1 values and ``sqrt(Σ(v − mean)² / (n − 1)) / sqrt(n)``.

    >>> estimate_of([1.0, 3.0])
    Estimate(mean=2.0, error=1.0, n=2)
    """
    stacked = np.array(values, dtype=np.float64)[:, None]
    mean, error = _mean_and_error(stacked)
    return Estimate(
        mean=float(mean[0]), error=None if error is None else float(error[0]), n=len(values)
    )


def average(curves: Sequence[tuple[str, Thinned]]) -> Averaged:
    """Return the mean of the curves of one seed or more, none of them without points.

    It runs over the steps that any seed has, as far as all of them reach; a seed without a value
    at such a step lies on the straight line between its neighbours. Seeds that were recorded at
    the same steps are so averaged step by step.

    Args:
        curves: Seed and curve. Thinned ones enter by the means of their buckets, and are drawn
            with their dips and peaks.
    """
    members = tuple(Member(seed=s, steps=c.points()[0], values=c.points()[1]) for s, c in curves)
    last = estimate_of([curve.last[1] for _, curve in curves])
    if len(curves) == 1:
        steps, values = curves[0][1].means()
        return Averaged(steps=steps, mean=values, error=None, members=members, last=last)
    lines = [_unique(*curve.means()) for _, curve in curves]
    start = max(steps[0] for steps, _ in lines)
    end = min(steps[-1] for steps, _ in lines)
    grid = np.unique(np.concatenate([steps for steps, _ in lines]))
    grid = grid[(grid >= start) & (grid <= end)]
    with np.errstate(all="ignore"):
        mean, error = _mean_and_error(np.stack([np.interp(grid, *line) for line in lines]))
    return Averaged(steps=grid, mean=mean, error=error, members=members, last=last)


def _mean_and_error(values: Floats) -> tuple[Floats, Floats | None]:
    """Return mean and standard error over the first axis; None for a single row."""
    n = len(values)
    if n == 1:
        return values[0], None
    # Squares of what is near the largest numbers overflow, and then there is no error to show.
    with np.errstate(all="ignore"):
        # From the first value on, equal values have exactly that mean and no error.
        beyond = values - values[0]
        mean = beyond.mean(0)
        error = np.sqrt(np.square(beyond - mean).sum(0) / (n - 1)) / math.sqrt(n)
        return values[0] + mean, error


def _unique(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Keep the newest of the values of one step: a resumed run may repeat some."""
    keep = np.append(steps[1:] != steps[:-1], True)
    return steps[keep], values[keep]
