"""Pictures of a run, drawn on figure objects so that no global state of matplotlib is touched.

Every function returns a `Figure`; `save` writes it. Series carry one line per seed: the lines are
drawn faintly and their mean boldly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from mlo.errors import MloError

_DOTS_PER_INCH = 150
_PANEL_WIDTH, _PANEL_HEIGHT = 4.8, 3.4
_NARROWEST = 4.8
"""Inches below which a heading no longer fits."""


class PlotError(MloError):
    """What is to be drawn has the wrong shape."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One quantity over time for one or more seeds.

    Attributes:
        rounds: `(points,)` rounds at which it was recorded.
        values: `(seeds, points)`.

    Raises:
        PlotError: If the shapes differ.
    """

    rounds: Sequence[float]
    values: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        """Check that every seed has one value per round."""
        lengths = {len(line) for line in self.values}
        if lengths != {len(self.rounds)}:
            raise PlotError(
                f"values: expected {len(self.rounds)} per seed, one for each round, "
                f"got {sorted(lengths)}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One coordinate system.

    Attributes:
        title: What is shown.
        unit: Label of the vertical axis, with the unit.
        series: Name to quantity.
        limits: Ends of the vertical axis; None to fit the data.
    """

    title: str
    unit: str
    series: Mapping[str, Series]
    limits: tuple[float, float] | None = None


def _panels(
    count: int, *, width: float, height: float, in_a_row: int, title: str
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` coordinate systems of about the given size in inches, row by row."""
    if not count:
        raise PlotError("expected at least one panel to draw, got none")
    columns = min(count, in_a_row)
    rows = -(-count // columns)
    size = (max(_NARROWEST, width * columns), height * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    figure.suptitle(title, fontsize="large", fontweight="bold")
    return figure, axes[:count]


def curves(panels: Sequence[Panel], *, title: str) -> Figure:
    """Draw quantities over rounds, one panel beside the other: mean over seeds, seeds faintly.

    Args:
        panels: From left to right.
        title: Heading of the figure.

    >>> loss = Series(rounds=[1, 2], values=[[2.0, 1.0]])
    >>> len(curves([Panel(title="loss", unit="nats", series={"gam": loss})], title="demo").axes)
    1
    """
    figure, axes = _panels(
        len(panels), width=_PANEL_WIDTH, height=_PANEL_HEIGHT + 0.5, in_a_row=3, title=title
    )
    for axis, panel in zip(axes, panels, strict=True):
        for place, (name, series) in enumerate(panel.series.items()):
            _draw(axis, name, series, f"C{place}")
        axis.set(title=panel.title, xlabel="round", ylabel=panel.unit, ylim=panel.limits)
        _finish(axis)
    names = [list(panel.series) for panel in panels]
    if names.count(names[0]) == len(names):
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    else:
        for axis in axes:
            axis.legend(
                loc="upper center",
                bbox_to_anchor=(0.5, -0.17),
                ncols=2,
                fontsize="small",
                frameon=False,
            )
    return figure


def _draw(axis: Axes, name: str, series: Series, colour: str) -> None:
    values = np.asarray(series.values, dtype=float)
    if len(values) > 1:
        axis.plot(series.rounds, values.T, color=colour, alpha=0.25, linewidth=0.8)
    axis.plot(series.rounds, values.mean(0), color=colour, linewidth=1.8, label=name)


def _finish(axis: Axes) -> None:
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def load_over_time(loads: Mapping[str, tuple[Sequence[float], ArrayLike]], *, title: str) -> Figure:
    """Draw the share of the examples in each group over rounds, one panel per run.

    A dotted line marks an equal share, a dashed one a tenth of it, below which a group counts as
    collapsed.

    Args:
        loads: Name of the run to `(points,)` rounds and `(points, K)` shares.
        title: Heading of the figure.

    >>> figure = load_over_time({"seed 0": ([1, 2], [[0.5, 0.5], [0.7, 0.3]])}, title="demo")
    >>> [axis.get_title() for axis in figure.axes]
    ['seed 0']
    """
    figure, axes = _panels(
        len(loads), width=0.8 * _PANEL_WIDTH, height=0.8 * _PANEL_HEIGHT, in_a_row=3, title=title
    )
    for axis, (name, (rounds, shares)) in zip(axes, loads.items(), strict=True):
        lines = np.asarray(shares, dtype=float)
        if lines.ndim != 2 or len(lines) != len(rounds):
            raise PlotError(
                f"loads: expected shares of shape ({len(rounds)}, groups) for {name!r}, "
                f"got {lines.shape}"
            )
        groups = lines.shape[1]
        for group in range(groups):
            # Colours repeat after ten, so naming more of them would tell nobody apart.
            label = f"group {group}" if group < 10 else None
            axis.plot(rounds, lines[:, group], color=f"C{group % 10}", label=label)
        axis.axhline(1 / groups, color="0.5", linestyle=":", label="equal share")
        axis.axhline(0.1 / groups, color="crimson", linestyle="--", label="collapse")
        axis.set(title=name, xlabel="round", ylabel="share of examples", ylim=(0, 1.02))
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        _finish(axis)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3 if len(axes) == 1 else 6,
        frameon=False,
        fontsize="small",
    )
    return figure


def group_by_attribute(
    counts: Mapping[str, ArrayLike], *, attribute: str, values: Sequence[str], title: str
) -> Figure:
    """Draw which attribute values each group holds: colour is the share of the value, text a count.

    Each column of a panel adds up to 100%: groups that follow the attribute have one dark cell in
    each column, groups that ignore it have equal rows.

    Args:
        counts: Name of the method to `(K, attribute values)` counts.
        attribute: Name of the attribute.
        values: Name of each attribute value.
        title: Heading of the figure.

    >>> figure = group_by_attribute(
    ...     {"a": [[9, 1], [1, 9]]}, attribute="sex", values=["f", "m"], title="demo"
    ... )
    >>> [axis.get_title() for axis in figure.axes]
    ['a']
    """
    tables = {name: np.asarray(table, dtype=np.int64) for name, table in counts.items()}
    for name, table in tables.items():
        if table.ndim != 2 or table.shape[1] != len(values):
            raise PlotError(
                f"counts: expected shape (groups, {len(values)}) for {name!r}, got {table.shape}"
            )
    tallest = max((len(table) for table in tables.values()), default=0)
    figure, axes = _panels(
        len(tables),
        width=1.0 + 1.1 * len(values),
        height=1.0 + 0.6 * tallest,
        in_a_row=4,
        title=title,
    )
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        _heatmap(axis, table)
        axis.set_xticks(range(len(values)), labels=values)
        axis.set_yticks(range(len(table)), labels=[f"group {group}" for group in range(len(table))])
        axis.set(title=name, xlabel=attribute)
    return figure


def _heatmap(axis: Axes, table: NDArray[np.int64]) -> None:
    shares = table / np.maximum(table.sum(0), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(table):
        share = shares[row, column]
        axis.text(
            column,
            row,
            f"{count:,}\n{share:.0%}",
            ha="center",
            va="center",
            fontsize="small",
            color="white" if share > 0.6 else "black",
        )
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    # Lines between cells: neighbours of one colour would melt into each other.
    axis.set_xticks(np.arange(table.shape[1] - 1) + 0.5, minor=True)
    axis.set_yticks(np.arange(len(table) - 1) + 0.5, minor=True)
    axis.grid(which="minor", color="0.8", linewidth=1)
    axis.tick_params(which="minor", length=0)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as the kind of file that the ending of `path` names, and return `path`.

    Args:
        figure: From one of the functions above.
        path: Ends in `.png`, `.svg` or `.pdf`; its directory exists.
    """
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    return path
