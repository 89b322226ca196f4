"""Histograms over time: a column a time, shaded by share, with quantiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from mlo.report.averaging import split_seed
from mlo.report.axes import settle
from mlo.report.collected import Histogram
from mlo.report.drawing import draw_quantiles, shading
from mlo.report.groups import Group
from mlo.report.panels import Owner
from mlo.report.thinning import Floats

_ROWS, _COLUMNS = 48, 120
QUANTILES: Final = (0.1, 0.5, 0.9)


@dataclass(frozen=True, kw_only=True, eq=False)
class Distribution:
    """Histograms of one name over time, those of all seeds pooled.

    Attributes:
        title: Name and owner.
        seeds: How many curves are pooled.
        times: Ascending; one histogram each.
    """

    title: str
    seeds: int
    times: tuple[Histogram, ...]


def distributions_of(groups: Sequence[Group]) -> list[Distribution]:
    """Return everything whose histogram was recorded, in recorded order."""
    gathered: dict[tuple[str, Owner], list[list[Histogram]]] = {}
    for group in groups:
        for run in group.runs:
            for (scope, name), spread in run.collected.histograms.items():
                owner = Owner(group.label, split_seed(scope)[0])
                gathered.setdefault((name, owner), []).append(spread.items())
    return [
        Distribution(
            title=" · ".join(filter(None, (name, owner.label))) or "histogram",
            seeds=len(members),
            times=_pooled(members),
        )
        for (name, owner), members in gathered.items()
    ]


def draw_distribution(distribution: Distribution) -> tuple[Figure, str]:
    """Draw one column a time: shading is the share of values, lines are quantiles.

    Returns:
        The figure, and what its reader has to know.
    """
    times = distribution.times
    low = min(float(time.edges[0]) for time in times)
    high = max(float(time.edges[-1]) for time in times)
    edges = np.linspace(low, high, _ROWS + 1)
    columns = np.stack([resampled(time, edges) for time in times], axis=1)
    steps = np.array([time.step for time in times])
    grid = np.linspace(steps[0], steps[-1], _COLUMNS)
    nearest = np.abs(grid[:, None] - steps[None, :]).argmin(1)
    figure, axes = shading(
        columns[:, nearest], (float(steps[0]), float(steps[-1])), (low, high), "step"
    )
    lines = np.stack([quantiles(time) for time in times], axis=1)
    draw_quantiles(axes, steps, lines)
    axes.set_ylim(low, high)
    settle(figure, axes)
    return figure, f"darkest: {columns.max():.0%} of the values"


def resampled(histogram: Histogram, edges: Floats) -> Floats:
    """Return the shares of a histogram in other bins, values being even within a bin.

    The sum is 1 where `edges` span the histogram.

    >>> one = Histogram(step=0, edges=np.array([0.0, 1.0]), counts=np.array([4.0]))
    >>> resampled(one, np.array([0.0, 0.25, 1.0])).tolist()
    [0.25, 0.75]
    """
    return np.diff(np.interp(edges, histogram.edges, _cumulative(histogram)))


def quantiles(histogram: Histogram) -> Floats:
    """Return the 10 %, 50 % and 90 % quantiles, values being even within a bin.

    >>> one = Histogram(step=0, edges=np.array([0.0, 10.0]), counts=np.array([4.0]))
    >>> quantiles(one).tolist()
    [1.0, 5.0, 9.0]
    """
    found: Floats = np.interp(QUANTILES, _cumulative(histogram), histogram.edges)
    return found


def _cumulative(histogram: Histogram) -> Floats:
    shares = histogram.counts / histogram.counts.max()
    return np.concatenate([[0.0], np.cumsum(shares / shares.sum())])


def _pooled(members: Sequence[Sequence[Histogram]]) -> tuple[Histogram, ...]:
    """Return one histogram a time, the mean of those of all members at that time."""
    by_step: dict[float, list[Histogram]] = {}
    for member in members:
        for histogram in member:
            by_step.setdefault(histogram.step, []).append(histogram)
    return tuple(_mean(by_step[step]) for step in sorted(by_step))


def _mean(histograms: Sequence[Histogram]) -> Histogram:
    if len(histograms) == 1:
        return histograms[0]
    edges = np.unique(np.concatenate([histogram.edges for histogram in histograms]))
    shares = np.mean([resampled(histogram, edges) for histogram in histograms], axis=0)
    return Histogram(step=histograms[0].step, edges=edges, counts=shares)
