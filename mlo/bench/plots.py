"""Pictures of what `mlo bench` measured, drawn from its JSON files.

Lines carry their name at their end instead of in a legend; everything is readable at the 700 pixels
that a README gives a picture. Figures are drawn on objects of their own, so no global state of
matplotlib is touched.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray
from PIL import Image

MLO: Final = "mlo"
BETTY: Final = "betty-ml"
_MLO, _PEER, _HAND = "#1f5fbf", "#d1600a", "#555555"
_WIDTH, _DOTS_PER_INCH, _COLOURS = 7.0, 200, 64

Document = Mapping[str, Any]
"""The JSON of one case."""


def draw(results: Path, out: Path) -> list[Path]:
    """Draw every picture for which `results` holds a file, write it to `out`, return the paths.

    Args:
        results: Directory that `mlo bench` wrote.
        out: Directory of the pictures; made if it does not exist.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as empty:
    ...     draw(Path(empty), Path(empty))
    []
    """
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, picture in PICTURES.items():
        source = results / f"{name}.json"
        if not source.exists():
            continue
        figure = picture(json.loads(source.read_text(encoding="utf-8")))
        if figure is None:
            continue
        path = out / f"{name}.png"
        _write(figure, path)
        written.append(path)
    return written


def _write(figure: Figure, path: Path) -> None:
    """Write a PNG of few colours, a third of the size of one of many."""
    figure.savefig(path, dpi=_DOTS_PER_INCH, facecolor="white")
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(_COLOURS)
    few.save(path, optimize=True)


def upper_step(document: Document) -> Figure | None:
    """Draw one upper step over a hand-written loop, one panel a size; None if there is nothing.

    A dot is a program, its bar the quartiles of the paired ratios.
    """
    chosen = [(k, r) for k, r in enumerate(document["rows"]) if r.get("what") == "upper step"]
    sizes = list(dict.fromkeys(row["parameters"] for _, row in chosen))
    methods = list(dict.fromkeys(row["method"] for _, row in chosen))
    if not sizes:
        return None
    quartiles = {(r["row"], r["column"]): (r["lower"], r["upper"]) for r in document["ratios"]}
    figure, axes = _row_of(len(sizes), height=3.3)
    for axis, size in zip(axes, sizes, strict=True):
        axis.axhline(1, color=_HAND, linewidth=1)
        for series, colour in ((MLO, _MLO), (BETTY, _PEER)):
            for place, method in enumerate(methods):
                found = [
                    (row[series], *quartiles.get((k, series), (row[series], row[series])))
                    for k, row in chosen
                    if row["parameters"] == size
                    and row["method"] == method
                    and isinstance(row.get(series), float | int)
                ]
                for offset, (middle, low, high) in enumerate(found):
                    at = place + 0.16 * (offset - (len(found) - 1) / 2)
                    axis.plot([at, at], [low, high], color=colour, linewidth=1.2, alpha=0.6)
                    axis.plot([at], [middle], "o", color=colour, markersize=5)
        axis.set_title(f"{size} parameters", fontsize=10)
        axis.set_xlim(-0.5, len(methods) - 0.5)
        axis.set_xticks(range(len(methods)), labels=[_broken(name) for name in methods])
        _ratio_axis(axis)
    first = [row for _, row in chosen if row["parameters"] == sizes[0]]
    axes[0].set_ylabel("time / hand-written loop")
    _name_clusters(axes[0], methods, first)
    return figure


def _name_clusters(axis: Axes, methods: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the name of each series beside its dots over the last method, in the free margin."""
    for series, colour in ((MLO, _MLO), (BETTY, _PEER)):
        values = [
            row[series]
            for row in rows
            if row["method"] == methods[-1] and isinstance(row.get(series), float | int)
        ]
        if values:
            label = "Betty" if series == BETTY else series
            axis.annotate(
                label,
                (len(methods) - 1, float(np.exp(np.mean(np.log(values))))),
                xytext=(-14, 0),
                textcoords="offset points",
                color=colour,
                ha="right",
                va="center",
                fontweight="bold",
            )


def levels(document: Document) -> Figure | None:
    """Draw milliseconds of one upper step against the number of lower problems."""
    rows = document["rows"]
    lines = {
        MLO: (_MLO, "mlo: each problem is visited once"),
        BETTY: (_PEER, "Betty: every path is followed"),
    }
    figure, (axis,) = _row_of(1, height=3.4)
    drawn = False
    for series, (colour, label) in lines.items():
        column = f"{series} (ms)"
        points = [(r["levels"], r[column]) for r in rows if isinstance(r.get(column), float | int)]
        if not points:
            continue
        drawn = True
        x, y = zip(*points, strict=True)
        axis.plot(x, y, "o-", color=colour, markersize=4, linewidth=1.8)
        at, offset = (len(points) // 2, (-8, 8)) if series == BETTY else (-1, (0, -26))
        axis.annotate(
            label,
            (x[at], y[at]),
            xytext=offset,
            textcoords="offset points",
            color=colour,
            ha="right",
            fontweight="bold",
        )
    if not drawn:
        return None
    axis.set_yscale("log")
    axis.set_xlabel("lower problems that all read each other")
    axis.set_ylabel("one upper step, milliseconds")
    axis.xaxis.set_major_locator(FixedLocator([row["levels"] for row in rows]))
    axis.yaxis.set_major_formatter(FuncFormatter(_plain))
    _finish(axis)
    return figure


def quadratic(document: Document) -> Figure | None:
    """Draw ``‖∇h‖²`` over its start against oracle calls, published curves dashed.

    Lines are means over seeds. Where two lines of `mlo` agree within 2 %, one carries both names.
    """
    sizes = list(dict.fromkeys(curve["size"] for curve in document["curves"]))
    if not sizes:
        return None
    figure = Figure(figsize=(_WIDTH, 3.6 * len(sizes)), layout="constrained", facecolor="white")
    axes = list(figure.subplots(len(sizes), 1, squeeze=False, sharex=True).flat)
    ends: list[tuple[Axes, list[_End], list[_End]]] = []
    for axis, size in zip(axes, sizes, strict=True):
        axis.set(xscale="log", yscale="log", ylabel="‖∇h‖² / its value at the start")
        axis.set_title(_size_title(document, size), fontsize=10, loc="left")
        dashed, solid = _draw_published(axis, document, size), _draw_measured(axis, document, size)
        ends.append((axis, dashed, solid))
        _finish(axis)
    column = 3.5 * max(end[0] for _, *both in ends for kind in both for end in kind)
    for axis, dashed, solid in ends:
        _name_ends(axis, dashed)
        _name_ends(axis, solid, column=column)
    axes[-1].set_xlim(right=60 * column)
    # Ticks over the names would say nothing.
    axes[-1].xaxis.set_major_locator(FixedLocator([10.0**k for k in range(2, 6)]))
    axes[-1].xaxis.set_minor_locator(NullLocator())
    axes[-1].set_xlabel("oracle calls, each one derivative on a minibatch of 64")
    return figure


_SHOWN: Final = (
    *((MLO, name) for name in ("warm_started", "cg", "neumann", "value_function")),
    *((MLO, name) for name in ("identity", "finite_difference")),
    ("anew, tuned", "SOBA"),
)
"""Families and solvers that are drawn; all others would hide these, and are in the table."""

_End = tuple[float, float, str, str]
"""Where a line ends, its name and its colour."""


def _size_title(document: Document, size: str) -> str:
    seeds = max(len(c["values"]) for c in document["curves"] if c["size"] == size)
    return f"{size} instance: mean over {seeds} seeds (lines), published measurements (dashed)"


def _draw_published(axis: Axes, document: Document, size: str) -> list[_End]:
    ends: list[_End] = []
    for curve in document["published"]:
        if curve["size"] == size:
            points = sorted((int(calls), value) for calls, value in curve["relative"].items())
            x, y = zip(*points, strict=True)
            axis.plot(x, y, "o--", color=_PEER, markersize=3.5, linewidth=1.2)
            ends.append((x[-1], y[-1], curve["solver"], _PEER))
    return ends


def _draw_measured(axis: Axes, document: Document, size: str) -> list[_End]:
    ends: list[_End] = []
    shown: list[NDArray[np.float64]] = []
    for curve in document["curves"]:
        name = curve["solver"].partition("(")[0]
        if curve["size"] != size or (curve["family"], name) not in _SHOWN:
            continue
        mean = np.mean(np.asarray(curve["values"], dtype=float), axis=0)
        twin = next((k for k, line in enumerate(shown) if np.allclose(line, mean, rtol=0.02)), None)
        shown.append(mean)
        if twin is not None:
            x, y, label, colour = ends[twin]
            ends[twin] = (x, y, f"{label} = {name}", colour)
            ends.append((math.nan, math.nan, "", colour))
            continue
        is_ours = curve["family"] == MLO
        is_best = name == "warm_started"
        colour = _MLO if is_ours else _HAND
        width, alpha = (2.4, 1.0) if is_best else (1.2, 0.6 if is_ours else 1.0)
        axis.plot(curve["points"], mean, color=colour, linewidth=width, alpha=alpha)
        label = f"mlo {name}" if is_ours else f"{name}, tuned here"
        ends.append((curve["points"][-1], float(mean[-1]), label, colour))
    return [end for end in ends if end[2]]


_FAMILIES: Final = {
    "cg": (_MLO, "-", "cg"),
    "cg, finite differences": (_MLO, "--", "cg, finite differences"),
    "cg, damping=0.1": (_MLO, ":", "cg, damping=0.1"),
    "neumann": ("#2a9d8f", "-", "neumann"),
    "warm_started": ("#2a9d8f", "--", "warm_started, all calls"),
    "nystrom, damping=0.1": ("#8e6bbf", "-", "nystrom, damping=0.1"),
    "unrolled": ("#b3261e", "-", "unrolled"),
    "value_function": (_PEER, "-", "value_function"),
    "stationarity_penalty": ("#b8860b", "-", "stationarity_penalty"),
    "identity": (_HAND, "-", "identity"),
    "exact": (_HAND, "-", "exact"),
}
"""Families of the accuracy picture: colour, line and name; others would lie on these."""

_STAGES: Final = {
    "solved": ("Lower problem solved: error to the dense solve", (1e-5, 3.0)),
    "trained a little": ("After 20 updates: error to the derivative of training again", (0.08, 20)),
}
"""Title of each stage and the errors that are shown; lines that leave them are cut off."""


def accuracy(document: Document) -> Figure | None:
    """Draw the error of a hypergradient against gradient evaluations, one panel a stage."""
    rows = [row for row in document["rows"] if row["family"] in _FAMILIES]
    stages = [stage for stage in _STAGES if any(row["stage"] == stage for row in rows)]
    if not stages:
        return None
    figure = Figure(figsize=(_WIDTH, 3.9 * len(stages)), layout="constrained", facecolor="white")
    axes = list(figure.subplots(len(stages), 1, squeeze=False, sharex=True).flat)
    last = max(row["evaluations"] for row in rows if row["family"] != "warm_started")
    shown = [row for row in rows if row["evaluations"] <= last]
    for axis, stage in zip(axes, stages, strict=True):
        title, limits = _STAGES[stage]
        axis.set(xscale="log", yscale="log", ylim=limits, ylabel="relative error")
        axis.set_title(title, fontsize=10, loc="left")
        ends = _draw_families(axis, [row for row in shown if row["stage"] == stage], limits)
        _finish(axis)
        _name_in_column(axis, ends, column=1.4 * last)
    axes[-1].set_xlim(left=1.6, right=30 * last)
    axes[-1].xaxis.set_major_locator(FixedLocator([2, 10, 100, 1000]))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(_plain))
    axes[-1].xaxis.set_minor_locator(NullLocator())
    axes[-1].set_xlabel("gradient evaluations for one hypergradient")
    return figure


def _draw_families(
    axis: Axes, rows: Sequence[Mapping[str, Any]], limits: tuple[float, float]
) -> list[_End]:
    ends: list[_End] = []
    low, high = limits
    for family, (colour, style, name) in _FAMILIES.items():
        points = [(r["evaluations"], r["relative error"]) for r in rows if r["family"] == family]
        # An error that is not finite is written in words.
        points = [(x, y) for x, y in points if isinstance(y, float)]
        if not points:
            continue
        width = 2.4 if family == "cg" else 1.5
        axis.plot(*zip(*points, strict=True), style, color=colour, linewidth=width)
        x, y = _last_seen(points, limits)
        if len(points) > 1:
            ends.append((x, y, name, colour))
        elif low < y < high:
            axis.plot([x], [y], "o", color=colour, markersize=5)
            side = "left" if family == "identity" else "right"
            axis.text(x, 1.12 * y, name, color=colour, fontsize=8.5, ha=side)
    return ends


def _last_seen(
    points: Sequence[tuple[float, float]], limits: tuple[float, float]
) -> tuple[float, float]:
    """Return where a line ends, or where it first leaves the limits; axes are logarithmic."""
    low, high = limits
    for (x0, y0), (x1, y1) in pairwise(points):
        if not low < y1 < high:
            edge = low if y1 <= low else high
            share = math.log(edge / y0) / math.log(y1 / y0)
            return x0 * (x1 / x0) ** share, edge
    return points[-1]


def _name_in_column(axis: Axes, ends: Sequence[_End], *, column: float) -> None:
    """Write the names one below the other in the order of the lines, each tied to its line."""
    low, high = np.log(axis.get_ylim())
    gap = 0.078 * (high - low)
    ordered = sorted(ends, key=lambda end: -end[1])
    places: list[float] = []
    for _, y, _, _ in ordered:
        below = places[-1] - gap if places else high - gap / 2
        places.append(min(math.log(y), below))
    for k, (x, y, label, colour) in enumerate(ordered):
        # Room is left for those below.
        at = math.exp(max(places[k], low + gap * (len(ordered) - k - 0.5)))
        axis.plot([x, column], [y, at], ":", color=colour, linewidth=0.8, alpha=0.7)
        axis.text(1.06 * column, at, label, color=colour, va="center", fontsize=8.5)


PICTURES: Final[Mapping[str, Callable[[Document], Figure | None]]] = {
    "upper_step": upper_step,
    "levels": levels,
    "quadratic_curves": quadratic,
    "accuracy": accuracy,
}
"""Picture by the name of the file that it is drawn from."""


def _row_of(count: int, *, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")
    axes = list(figure.subplots(1, count, squeeze=False, sharey=True).flat)
    return figure, axes


def _finish(axis: Axes) -> None:
    axis.grid(color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)


def _ratio_axis(axis: Axes) -> None:
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    ticks = [t for t in (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10) if 0.9 * low <= t <= 1.1 * high]
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    _finish(axis)
    axis.grid(visible=False, axis="x")


def _name_ends(axis: Axes, ends: Sequence[_End], *, column: float | None = None) -> None:
    """Write each name beside the end of its line, moved up where names would overlap.

    With a `column` the names stand there, each tied to its line.
    """
    low, high = np.log(axis.get_ylim())
    gap, before = 0.062 * (high - low), -math.inf
    for x, y, label, colour in sorted(ends, key=lambda end: end[1]):
        before = max(math.log(y), before + gap)
        at = 1.12 * x if column is None else column
        if column is not None:
            axis.plot([x, at], [y, math.exp(before)], ":", color=colour, linewidth=0.8, alpha=0.6)
        axis.text(1.04 * at, math.exp(before), label, color=colour, va="center", fontsize=8.5)


def _broken(name: str) -> str:
    """Return the name on two lines if it has two words."""
    return name.replace(" ", "\n", 1)


def _plain(value: float, _: object) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
