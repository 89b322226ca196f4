"""Curves over time, drawn small: lines with bands, stacked shares, shading."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlo.report.averaging import Averaged
from mlo.report.axes import SMALLEST, fit, is_logarithmic, limits, panel, reduced, settle
from mlo.report.styles import CARD, INK, colour, dash, marker
from mlo.report.thinning import Floats

_SINGLE, _FAINT, _MEANS = 600, 240, 300
_SHADE: Final = (0.16, 0.47, 0.76)
_COLUMNS: Final = 160


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """A curve with its name; `look` numbers its colour, marker and dashes."""

    label: str
    curve: Averaged
    look: int


def draw_lines(lines: Sequence[Line], axis_name: str) -> tuple[Figure, str]:
    """Draw the mean of each line, a band of one standard error, and its seeds faintly.

    A single curve of many points is drawn faintly too, under the means of its neighbours.

    Returns:
        The figure, and what its reader has to know.
    """
    figure, axes = panel(axis_name)
    values = [m.values for line in lines for m in line.curve.members]
    means = [line.curve.mean for line in lines if len(line.curve.mean)]
    is_positive = min(float(v.min()) for v in values) >= SMALLEST
    logarithmic = is_positive and is_logarithmic(means)
    for line in lines:
        if _is_summarised(line.curve):
            _draw_members(axes, line, floor=min(float(v.min()) for v in values))
    for place, line in enumerate(lines):
        _draw_mean(axes, line, place, len(lines))
    limits(axes, [m.steps for line in lines for m in line.curve.members])
    fit(axes, values, logarithmic=logarithmic)
    settle(figure, axes)
    remarks = ["log scale"] if logarithmic else []
    if any(len(line.curve.members) == 1 and _is_summarised(line.curve) for line in lines):
        remarks.append("bold: mean of neighbouring points")
    return figure, "; ".join(remarks)


def _is_summarised(curve: Averaged) -> bool:
    return len(curve.members) > 1 or len(curve.members[0].steps) > _SINGLE


def _draw_members(axes: Axes, line: Line, floor: float) -> None:
    paint = colour(line.look)
    most = _FAINT if len(line.curve.members) > 1 else _SINGLE
    for member in line.curve.members:
        steps, values = reduced(member.steps, member.values, most)
        axes.plot(steps, values, color=paint, linewidth=0.7, alpha=0.4)
    if line.curve.error is not None and len(line.curve.steps):
        steps, mean, error = _blocks(line.curve)
        low = np.maximum(mean - error, floor) if floor > 0 else mean - error
        axes.fill_between(steps, low, mean + error, color=paint, alpha=0.2, linewidth=0)


def _draw_mean(axes: Axes, line: Line, place: int, count: int) -> None:
    if _is_summarised(line.curve):
        steps, values, _ = _blocks(line.curve)
    else:
        steps, values = line.curve.members[0].steps, line.curve.members[0].values
    if not len(steps):
        return
    # Markers of different lines stand at different places, about five a line.
    every = max(1, len(steps) // 5)
    start = min(len(steps) - 1, (place * every) // max(1, count) + every // 2)
    shape = marker(line.look) if count > 1 or len(steps) == 1 else ""
    (drawn,) = axes.plot(
        steps,
        values,
        color=colour(line.look),
        linewidth=1.7,
        marker=shape,
        markersize=5.5,
        markevery=(start, every),
        markeredgecolor=CARD,
        markeredgewidth=0.7,
    )
    if dash(line.look):
        drawn.set_dashes(dash(line.look))


def draw_shares(lines: Sequence[Line], axis_name: str) -> tuple[Figure, str]:
    """Draw lines that add up to a constant as areas on top of each other, the first at the bottom.

    Returns:
        The figure, and nothing to know.
    """
    figure, axes = panel(axis_name)
    axes.grid(visible=False)
    steps = lines[0].curve.steps
    tops = np.cumsum(np.stack([line.curve.mean for line in lines]), axis=0)
    chosen = np.unique(np.linspace(0, len(steps) - 1, _MEANS).astype(int))
    bottoms = np.concatenate([np.zeros((1, len(steps))), tops[:-1]])
    for line, low, high in zip(lines, bottoms, tops, strict=True):
        axes.fill_between(
            steps[chosen], low[chosen], high[chosen], color=colour(line.look), alpha=0.8,
            edgecolor=CARD, linewidth=1.2,
        )  # fmt: skip
        _name_area(axes, line, steps, low, high, float(tops[-1].max()))
    axes.set_xlim(float(steps[0]), float(steps[-1]))
    axes.set_ylim(0, float(tops[-1].max()))
    settle(figure, axes)
    return figure, ""


def _name_area(
    axes: Axes, line: Line, steps: Floats, low: Floats, high: Floats, whole: float
) -> None:
    """Write a name into its area where that is thickest, away from the edges."""
    inner = slice(len(steps) // 8, max(len(steps) // 8 + 1, len(steps) * 7 // 8))
    at = inner.start + int((high - low)[inner].argmax())
    if high[at] - low[at] > 0.09 * whole and len(line.label) <= 4:
        middle = (low[at] + high[at]) / 2
        axes.text(
            float(steps[at]), float(middle), line.label, color=CARD, fontsize=11,
            fontweight="bold", ha="center", va="center", parse_math=False,
        )  # fmt: skip


def draw_rows(lines: Sequence[Line], axis_name: str) -> tuple[Figure, str]:
    """Draw many numbered lines as rows of shading, the darkest at the largest value.

    Returns:
        The figure, and what full shading means.
    """
    steps = [line.curve.steps for line in lines]
    start, end = min(float(s[0]) for s in steps), max(float(s[-1]) for s in steps)
    grid = np.linspace(start, end, _COLUMNS)
    rows = np.stack([np.interp(grid, s.curve.steps, s.curve.mean) for s in lines])
    figure, axes = shading(rows, (start, end), (-0.5, len(lines) - 0.5), axis_name)
    settle(figure, axes)
    return figure, f"darkest: {float(rows.max()):.3g}"


def shading(
    rows: Floats, across: tuple[float, float], up: tuple[float, float], axis_name: str
) -> tuple[Figure, Axes]:
    """Return a panel with an image: `(rows, columns)`, from the bottom, 0 or less being clear."""
    figure, axes = panel(axis_name)
    axes.grid(visible=False)
    image = np.zeros((*rows.shape, 4))
    image[..., :3] = _SHADE
    peak = float(rows.max())
    image[..., 3] = np.clip(rows / peak, 0, 1) if peak > 0 else 0
    wide = max(across[1], across[0] + max(1e-9 * abs(across[0]), 1e-9))
    axes.imshow(
        image, extent=(across[0], wide, *up), origin="lower", aspect="auto", interpolation="none"
    )
    return figure, axes


def draw_quantiles(axes: Axes, steps: Floats, quantiles: Floats) -> None:
    """Draw the lowest, middle and highest of three quantiles, `(3, steps)`, over a shading."""
    for row, style in zip(quantiles, ((0, (3, 2)), "-", (0, (3, 2))), strict=True):
        axes.plot(steps, row, color=INK, linewidth=1.2, linestyle=style)


def _blocks(curve: Averaged) -> tuple[Floats, Floats, Floats]:
    """Return steps, means and errors, averaged over stretches where there are many."""
    error = np.zeros_like(curve.mean) if curve.error is None else curve.error
    known = np.isfinite(curve.mean) & np.isfinite(error)
    rows = np.stack([curve.steps, curve.mean, error])[:, known]
    if rows.shape[1] > _MEANS:
        parts = np.array_split(rows, _MEANS, axis=1)
        rows = np.stack([part.mean(1) for part in parts], axis=1)
    return rows[0], rows[1], rows[2]
