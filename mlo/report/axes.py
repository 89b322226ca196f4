"""The coordinate system that every drawing of the page shares."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullLocator

from mlo.report.styles import GRID, INK
from mlo.report.thinning import Floats
from mlo.report.wording import number

_INCH: Final = 72
_WIDTH, _HEIGHT = 360.0, 216.0
"""Units of which a panel has about one a pixel, so that letters of 10 are readable."""

_FONT, _LETTER = 10.5, 6.4
_LEFT, _RIGHT, _TOP, _BOTTOM = 7.0, 14.0, 8.0, 35.0
SMALLEST: Final = 1e-100
"""Where an axis has smaller numbers, it is not logarithmic: quotients would overflow."""

_RATIO_WITHIN, _RATIO_BETWEEN = 30.0, 300.0


class Single(Formatter):
    """Numbers each by itself, as on a logarithmic axis."""

    def __call__(self, x: float, _pos: int | None = None) -> str:
        """Return one tick."""
        return number(x, 3)


class Ticks(Single):
    """Numbers short enough for a small panel, all ticks of an axis with the same decimals.

    >>> Ticks().format_ticks([0.0, 0.5, 1.0])
    ['0', '0.5', '1.0']
    >>> Ticks().format_ticks([0.0, 20_000.0, 40_000.0])
    ['0', '20k', '40k']
    >>> Ticks().format_ticks([-0.25, 0.0, 0.25])
    ['−0.25', '0', '0.25']
    """

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return the labels of the ticks of an axis."""
        sizes = [abs(value) for value in values if value]
        largest, smallest = max(sizes, default=1.0), min(sizes, default=1.0)
        gap = min((b - a for a, b in pairwise(values) if b > a), default=1.0)
        if largest >= 1e9 or largest < 1e-3 or gap < 1e-7:
            return [number(value, 3) for value in values]
        for unit, name in ((1e6, "M"), (1e3, "k")):
            if largest >= 10 * unit and gap >= unit / 10 and smallest >= unit / 10:
                return [number(value / unit, 6) + (name if value else "") for value in values]
        decimals = max(0, math.floor(-math.log10(gap)))
        while any(abs(round(value, decimals) - value) > 1e-3 * gap for value in values):
            decimals += 1
        return [f"{value:,.{decimals}f}".replace("-", "−") if value else "0" for value in values]


def panel(axis_name: str) -> tuple[Figure, Axes]:
    """Return an empty panel whose horizontal axis counts `axis_name`."""
    figure = Figure(figsize=(_WIDTH / _INCH, _HEIGHT / _INCH))
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=GRID, labelcolor=INK, labelsize=_FONT, length=3, pad=3)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_xlabel(axis_name, color=INK, fontsize=_FONT, ha="right", va="top")
    axes.xaxis.set_label_coords(1 - _RIGHT / _WIDTH, 0.07, transform=figure.transFigure)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(Ticks())
    axes.yaxis.set_major_formatter(Ticks())
    return figure, axes


def is_logarithmic(values: Sequence[Floats]) -> bool:
    """Return whether curves span so much that a linear axis would hide most of them.

    That is so where nine tenths of a curve do, or the middles of two curves; a dip does not count.

    >>> is_logarithmic([np.array([2.0, 0.1, 0.01])]), is_logarithmic([np.array([2.0, 0.1, 0.0])])
    (True, False)
    """
    if not values or min(float(v.min()) for v in values) < SMALLEST:
        return False
    low, middle, high = np.array([np.quantile(v, (0.05, 0.5, 0.95)) for v in values]).T
    within = (high / low).max() >= _RATIO_WITHIN
    return bool(within or middle.max() / middle.min() >= _RATIO_BETWEEN)


def fit(axes: Axes, values: Sequence[Floats], *, logarithmic: bool) -> None:
    """Let the vertical axis span all values and a little more."""
    low = min((float(v.min()) for v in values if len(v)), default=0.0)
    high = max((float(v.max()) for v in values if len(v)), default=1.0)
    if logarithmic:
        axes.set_yscale("log", nonpositive="clip")
        room = (high / low) ** 0.05
        axes.set_ylim(low / room, min(high * room, 1e300))
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(Single())
        return
    room = max(0.05 * (high - low), 1e-9 * abs(high), 1e-300)
    axes.set_ylim(low - room, high + room)


def limits(axes: Axes, steps: Sequence[Floats]) -> None:
    """Let the horizontal axis span all steps."""
    low = min(float(s[0]) for s in steps if len(s))
    high = max(float(s[-1]) for s in steps if len(s))
    room = max(0.01 * (high - low), 1e-9 * abs(high), 1e-9)
    axes.set_xlim(low - room, high + room)


def settle(figure: Figure, axes: Axes) -> None:
    """Leave as much room at the left as the labels take; measuring text would cost far more."""
    low, high = sorted(axes.get_ylim())
    shown = [tick for tick in axes.get_yticks() if low <= tick <= high]
    labels = axes.yaxis.get_major_formatter().format_ticks(shown)
    left = _LEFT + _LETTER * max(map(len, labels), default=0)
    figure.subplots_adjust(
        left=left / _WIDTH, right=1 - _RIGHT / _WIDTH, top=1 - _TOP / _HEIGHT,
        bottom=_BOTTOM / _HEIGHT,
    )  # fmt: skip


def reduced(steps: Floats, values: Floats, most: int) -> tuple[Floats, Floats]:
    """Return at most `most` points of a curve, the lowest and highest of each stretch.

    >>> steps, values = reduced(np.arange(1000.0), np.sin(np.arange(1000.0)), 100)
    >>> len(steps) <= 100, float(values.max()) == float(np.sin(np.arange(1000.0)).max())
    (True, True)
    """
    if len(steps) <= most:
        return steps, values
    bounds = np.linspace(0, len(steps), most // 2 - 1, endpoint=False).astype(int)
    parts = np.split(values, bounds[1:])
    lows = [at + int(part.argmin()) for at, part in zip(bounds, parts, strict=True)]
    highs = [at + int(part.argmax()) for at, part in zip(bounds, parts, strict=True)]
    kept = np.unique(np.array([0, len(steps) - 1, *lows, *highs]))
    return steps[kept], values[kept]
