"""Error against unfairness: which methods are not beaten in both, and their picture."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from mlo_lbg.plots import PlotError

_OTHERS = "osD^vPXp<>h8dH"
"""Markers of the methods that are compared with; told apart without colour."""

_OURS = "*"
_DARK, _LIGHT = "#08306b", "0.5"
"""Of the emphasised methods and the others: far apart in grey, too."""

_PADDING = 1.5
"""Points between a label and what it must not cover."""

_DISTANCES = (8, 12, 20, 30, 42, 56, 72, 90, 110)
"""Points from a point at which its label may stand, the preferred ones first."""

_ANGLES = tuple(math.radians(angle) for angle in (0, 180, 90, 270, 45, 135, 315, 225, 20, 340))
"""Directions in which a label may stand, the preferred ones first."""

_NEIGHBOURHOOD = 50
"""Points within which other points crowd a point."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One method: mean error and mean gap over seeds, with standard errors `s / √n`.

    Attributes:
        method: Name that is drawn beside it.
        errors: Error of each seed, as shares.
        gaps: Unfairness of each seed, such as DEO.
        emphasised: Whether it stands out.
        told_attribute: Whether it needs the attribute at test; then its marker is hollow.

    Raises:
        PlotError: If there is not one finite error and one finite gap for each of 1 or more seeds.

    >>> point = Point(method="single", errors=(0.14, 0.16), gaps=(0.2, 0.2))
    >>> round(point.error, 3), round(point.error_se, 3), point.gap_se
    (0.15, 0.01, 0.0)
    """

    method: str
    errors: Sequence[float]
    gaps: Sequence[float]
    emphasised: bool = False
    told_attribute: bool = False

    def __post_init__(self) -> None:
        """Check that both are known for every seed."""
        if not self.errors or len(self.errors) != len(self.gaps):
            raise PlotError(
                f"gaps: expected one per error and at least one for {self.method!r}, got "
                f"{len(self.gaps)} with {len(self.errors)} errors"
            )
        for name, values in (("errors", self.errors), ("gaps", self.gaps)):
            if not all(map(math.isfinite, values)):
                raise PlotError(f"{name}: expected finite values for {self.method!r}, got {values}")

    @property
    def error(self) -> float:
        """Mean error."""
        return float(np.mean(self.errors))

    @property
    def gap(self) -> float:
        """Mean gap."""
        return float(np.mean(self.gaps))

    @property
    def error_se(self) -> float:
        """Standard error of `error`; 0 with one seed."""
        return _standard_error(self.errors)

    @property
    def gap_se(self) -> float:
        """Standard error of `gap`; 0 with one seed."""
        return _standard_error(self.gaps)


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def pareto(points: Sequence[Point]) -> list[int]:
    """Numbers of the points that no other one dominates: `≤` in both means and `<` in one.

    Standard errors do not matter. Equal points do not dominate each other.

    Returns:
        In the order of ascending error, and descending gap.

    >>> def at(error: float, gap: float) -> Point:
    ...     return Point(method="", errors=(error,), gaps=(gap,))
    >>> pareto([at(0.2, 0.1), at(0.1, 0.3), at(0.3, 0.2)])
    [1, 0]
    """
    order = sorted(range(len(points)), key=lambda n: (points[n].error, points[n].gap))
    found: list[int] = []
    for number in order:
        last = points[found[-1]] if found else None
        point = points[number]
        equal = last is not None and (last.error, last.gap) == (point.error, point.gap)
        if last is None or point.gap < last.gap or equal:
            found.append(number)
    return found


def draw_frontier(points: Sequence[Point], *, title: str) -> Figure:
    """Draw mean error against mean gap with standard errors, and the Pareto front as steps.

    What lies above and to the right of the steps is dominated by a method on the front.

    Args:
        points: One per method, at least one.
        title: Heading of the figure.

    Raises:
        PlotError: If there is nothing to draw.

    >>> figure = draw_frontier(
    ...     [Point(method="single", errors=(0.14, 0.16), gaps=(0.2, 0.21))], title="demo"
    ... )
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['single']
    """
    if not points:
        raise PlotError("points: expected at least one method to draw, got none")
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axis = figure.subplots()
    figure.suptitle(title, fontsize="large", fontweight="bold")
    _draw_points(axis, points)
    axis.set(xlabel="error", ylabel="DEO,  |ΔTPR| + |ΔFPR|")
    axis.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=7))
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    # Room for labels beside the outermost points.
    axis.margins(0.12)
    axis.autoscale_view()
    axis.set_autoscale_on(False)
    axis.set_ylim(bottom=min(0.0, *(point.gap - point.gap_se for point in points)))
    steps = _steps(axis, [points[number] for number in pareto(points)])
    axis.plot(*steps.T, color="0.2", linestyle="--", linewidth=1.2, zorder=2)
    _draw_legend(figure, points)
    _draw_labels(figure, axis, points, steps)
    return figure


def _draw_points(axis: Axes, points: Sequence[Point]) -> None:
    others = 0
    for point in points:
        colour = _DARK if point.emphasised else _LIGHT
        marker = _OURS if point.emphasised else _OTHERS[others % len(_OTHERS)]
        others += not point.emphasised
        axis.errorbar(
            point.error,
            point.gap,
            xerr=point.error_se,
            yerr=point.gap_se,
            fmt=marker,
            markersize=13 if point.emphasised else 7,
            color=colour,
            markerfacecolor="white" if point.told_attribute else colour,
            markeredgecolor=_DARK if point.emphasised else "0.25",
            elinewidth=1,
            capsize=2,
            zorder=4 if point.emphasised else 3,
        )


def _steps(axis: Axes, front: Sequence[Point]) -> NDArray[np.float64]:
    """`(corners, 2)` corners: from the top over the front to the right, within present limits."""
    corners = [(front[0].error, axis.get_ylim()[1])]
    for point in front:
        corners += [(point.error, corners[-1][1]), (point.error, point.gap)]
    corners.append((axis.get_xlim()[1], front[-1].gap))
    return np.asarray(corners, dtype=np.float64)


def _draw_legend(figure: Figure, points: Sequence[Point]) -> None:
    handles = [Line2D([], [], color="0.2", linestyle="--", linewidth=1.2, label="Pareto front")]
    if any(point.told_attribute for point in points):
        handles.append(
            Line2D(
                [],
                [],
                color="0.25",
                marker="o",
                markerfacecolor="white",
                linestyle="none",
                label="told the attribute at test",
            )
        )
    if any(len(point.errors) > 1 for point in points):
        handles.append(
            Line2D([], [], color="0.5", linewidth=1, label="± standard error over seeds")
        )
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize="small"
    )


def _draw_labels(
    figure: Figure, axis: Axes, points: Sequence[Point], steps: NDArray[np.float64]
) -> None:
    """Put each label at the nearest free place, with a thin line to its point if that is far."""
    # Positions in pixels are known only after the layout.
    figure.draw_without_rendering()
    pixels = figure.dpi / 72
    frame = axis.get_window_extent()
    taken = [box for point in points for box in _covered(axis, point, pixels)]
    corners = axis.transData.transform(steps)
    taken += [
        Bbox.from_extents(*np.minimum(a, b), *np.maximum(a, b)).padded(pixels)
        for a, b in pairwise(corners)
    ]
    centres = axis.transData.transform([(point.error, point.gap) for point in points])
    # The crowded ones first, as they have the least choice.
    crowds = (np.abs(centres[:, None] - centres) < _NEIGHBOURHOOD * pixels).all(-1).sum(-1)
    for number in np.argsort(-crowds, kind="stable"):
        point, centre = points[number], centres[number]
        weight = "bold" if point.emphasised else "normal"
        probe = axis.text(0, 0, point.method, fontsize="small", fontweight=weight, va="bottom")
        size = probe.get_window_extent()
        probe.remove()
        place, box = _free_place(centre, size, frame, taken, pixels)
        taken.append(box)
        label = axis.annotate(
            point.method,
            (point.error, point.gap),
            xytext=(place.x, place.y),
            textcoords="offset points",
            fontsize="small",
            fontweight=weight,
            va="bottom",
            color=_DARK if point.emphasised else "0.15",
            zorder=5,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.7, "shrinkB": 5}
            if place.far
            else None,
        )
        label.set_in_layout(False)


def _covered(axis: Axes, point: Point, pixels: float) -> Iterator[Bbox]:
    """Marker and error bars in pixels."""
    x, y = axis.transData.transform((point.error, point.gap))
    right, top = axis.transData.transform((point.error + point.error_se, point.gap + point.gap_se))
    half = (7 if point.emphasised else 4) * pixels
    yield Bbox.from_extents(x - half, y - half, x + half, y + half)
    yield Bbox.from_extents(2 * x - right, y - pixels, right, y + pixels)
    yield Bbox.from_extents(x - pixels, 2 * y - top, x + pixels, top)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Lower left corner of a label, in points from its point."""

    x: float
    y: float
    far: bool


def _places(width: float, height: float) -> Iterator[_Place]:
    """Places around a point, the nearest ones first."""
    for distance in _DISTANCES:
        for angle in _ANGLES:
            across, along = math.cos(angle), math.sin(angle)
            yield _Place(
                x=distance * across + (across - 1) / 2 * width,
                y=distance * along + (along - 1) / 2 * height,
                far=distance > _DISTANCES[1],
            )


def _free_place(
    centre: NDArray[np.float64], size: Bbox, frame: Bbox, taken: Sequence[Bbox], pixels: float
) -> tuple[_Place, Bbox]:
    """The first place in the frame that covers nothing, else the one that covers the least."""
    pad = _PADDING * pixels
    found: list[tuple[float, _Place, Bbox]] = []
    for place in _places(size.width / pixels, size.height / pixels):
        left, low = centre[0] + place.x * pixels, centre[1] + place.y * pixels
        box = Bbox.from_bounds(left - pad, low - pad, size.width + 2 * pad, size.height + 2 * pad)
        outside = box.width * box.height - _overlap(box, frame)
        hidden = outside + sum(_overlap(box, other) for other in taken)
        found.append((hidden, place, box))
        if hidden < 1:
            break
    _, place, box = min(found, key=lambda one: one[0])
    return place, box


def _overlap(first: Bbox, second: Bbox) -> float:
    """Area that two boxes share, in square pixels."""
    width = float(min(first.x1, second.x1) - max(first.x0, second.x0))
    height = float(min(first.y1, second.y1) - max(first.y0, second.y0))
    return max(0.0, width) * max(0.0, height)
