"""The picture of the simulated rounds: efficiency against the number of ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from PIL import Image

from mlo.bench.case import Row

AS_ASSUMED: Final = "none"
"""Change of the rows that are drawn."""

_LINES: Final = {
    "plain training": ("#555555", "-", "plain training"),
    "finite_difference()": ("#1f5fbf", "-", "finite_difference"),
    "value_function(steps=10)": ("#2a9d8f", "-", "value_function, K = 10"),
    "cg(steps=10)": ("#b3261e", "-", "cg, K = 10"),
    "cg(steps=10), overlapped (not built)": ("#b3261e", "--", "cg, overlapped (not built)"),
    "cg(steps=10), one reduction (inexact)": ("#b3261e", ":", "cg, one reduction (inexact)"),
}
"""Colour, line and name of each response that is drawn."""


def scaling(rows: Sequence[Row]) -> Figure:
    """Draw efficiency against ranks, one panel a model, lines named at their end."""
    chosen = [row for row in rows if row["change"] == AS_ASSUMED]
    models = list(dict.fromkeys(str(row["model"]) for row in chosen))
    figure = Figure(
        figsize=(7.0, 2.6 * max(len(models), 1)), layout="constrained", facecolor="white"
    )
    axes = list(figure.subplots(max(len(models), 1), 1, squeeze=False, sharex=True).flat)
    last = max(_numbers(chosen, "ranks"), default=1.0)
    for axis, model in zip(axes, models, strict=False):
        here = [row for row in chosen if row["model"] == model]
        axis.set(xscale="log", ylabel="efficiency")
        axis.set_title(f"{model}, simulated", fontsize=10, loc="left")
        _draw(axis, here, last)
    axes[-1].set_xlabel("ranks, eight a node")
    axes[-1].set_xlim(0.9, 34 * last)
    axes[-1].xaxis.set_major_locator(FixedLocator([1, 8, 64, 512, 4096]))
    axes[-1].xaxis.set_minor_locator(NullLocator())
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return figure


def _draw(axis: Axes, rows: Sequence[Row], last: float) -> None:
    ends: list[tuple[float, str, str]] = []
    for response, (colour, style, name) in _LINES.items():
        here = [row for row in rows if row["response"] == response]
        if here:
            x, y = _numbers(here, "ranks"), _numbers(here, "efficiency")
            axis.plot(x, y, style, color=colour, linewidth=1.8)
            ends.append((y[-1], name, colour))
    bottom = max(0.0, min(_numbers(rows, "efficiency"), default=0.06) - 0.06)
    axis.set_ylim(bottom, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    gap, above = 0.085 * (1.02 - bottom), 2.0
    for number, (end, name, colour) in enumerate(sorted(ends, reverse=True)):
        # Names are moved down where they would overlap, and never below the axis.
        left = len(ends) - number - 1
        above = max(min(end, above - gap), bottom + gap * (left + 0.5))
        axis.plot([last, 1.25 * last], [end, above], ":", color=colour, linewidth=0.8)
        axis.text(1.35 * last, above, name, color=colour, va="center", fontsize=8.5)
    axis.grid(color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)


def _numbers(rows: Sequence[Row], column: str) -> list[float]:
    return [value for row in rows if isinstance(value := row[column], int | float)]


def write_scaling(rows: Sequence[Row], path: Path) -> None:
    """Write the picture as a PNG of few colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scaling(rows).savefig(path, dpi=200, facecolor="white")
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(64)
    few.save(path, optimize=True)
