"""Methods side by side: mean and standard error over seeds, for people and for programs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mlo.errors import MloError, nearest


class TableError(MloError):
    """Results do not fit the columns."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """How one measurement is shown.

    Attributes:
        key: Name of the measurement in the results.
        title: Heading, with the unit.
        decimals: Digits after the point.
        scale: Factor from the measurement to what is shown.
    """

    key: str
    title: str
    decimals: int = 3
    scale: float = 1.0


def grouping_columns(attribute: str) -> tuple[Column, ...]:
    """Return what a comparison of grouping methods shows.

    Args:
        attribute: Name of the sensitive attribute.

    >>> grouping_columns("sex")[4].title
    'NMI with sex'
    """
    return (
        Column(key="error", title="error %", decimals=2, scale=100),
        Column(key="worst_group_error", title=f"worst {attribute} %", decimals=2, scale=100),
        Column(key="demographic_parity", title="DP"),
        Column(key="equalized_odds", title="DEO"),
        Column(key="nmi_attribute", title=f"NMI with {attribute}", decimals=2),
        Column(key="nmi_label", title="NMI with label", decimals=2),
        Column(key="largest_load", title="max load", decimals=2),
        Column(key="num_parameters", title="parameters", decimals=0),
        Column(key="seconds", title="time, s", decimals=1),
    )


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A measurement over seeds.

    Attributes:
        mean: Mean over the seeds in which it is defined; nan if there is none.
        standard_error: Sample standard deviation over the square root of `defined`; nan for fewer
            than two seeds.
        defined: Number of seeds in which it is a number.
        seeds: Number of seeds.
    """

    mean: float
    standard_error: float
    defined: int
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods against measurements.

    Attributes:
        columns: What is shown, in order.
        rows: Method to measurement to statistic; None where a method has no such measurement.
    """

    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, Statistic | None]]


def statistic(values: Sequence[float]) -> Statistic:
    """Mean and standard error `s / √n` of the values that are numbers.

    >>> statistic([1.0, 3.0])
    Statistic(mean=2.0, standard_error=1.0, defined=2, seeds=2)
    """
    numbers = [value for value in values if not math.isnan(value)]
    count = len(numbers)
    mean = math.fsum(numbers) / count if count else math.nan
    error = math.nan
    if count > 1:
        variance = math.fsum((number - mean) ** 2 for number in numbers) / (count - 1)
        error = math.sqrt(variance / count)
    return Statistic(mean=mean, standard_error=error, defined=count, seeds=len(values))


def compare(
    results: Mapping[str, Sequence[Mapping[str, float | None]]],
    columns: tuple[Column, ...],
) -> Comparison:
    """Reduce each method's results over seeds.

    Args:
        results: Method to one mapping per seed, measurement to value. None: the method has no such
            measurement. nan: it has, but it could not be estimated for that seed.
        columns: What to show; other measurements in the results are ignored.

    Raises:
        TableError: If a method has no results, lacks a column, or has it for some seeds only.

    >>> both = compare({"a": [{"error": 0.1}, {"error": 0.3}]}, (Column(key="error", title="e"),))
    >>> round(both.rows["a"]["error"].mean, 3)
    0.2
    """
    return Comparison(
        columns=columns,
        rows={
            method: {column.key: _reduce(method, column.key, runs) for column in columns}
            for method, runs in results.items()
        },
    )


def _reduce(method: str, key: str, runs: Sequence[Mapping[str, float | None]]) -> Statistic | None:
    if not runs:
        raise TableError(f"{method}: expected the results of at least one seed, got none")
    for run in runs:
        if key not in run:
            raise TableError(
                f"{method}: expected a value for {key!r}, got {', '.join(run)}" + nearest(key, run)
            )
    values = [run[key] for run in runs]
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    if len(numbers) < len(values):
        raise TableError(f"{method}: expected {key!r} for every seed or for none, got {values}")
    return statistic(numbers)


def _cell(value: Statistic | None, column: Column) -> str:
    """`mean ± standard error`, `(defined/seeds)` if a seed is missing, `–` if there is nothing."""
    if value is None:
        return "–"
    if not value.defined:
        return "undefined"
    text = f"{value.mean * column.scale:,.{column.decimals}f}"
    # A count that is the same for every seed has no error to show.
    if value.standard_error > 0:
        text += f" ± {value.standard_error * column.scale:,.{column.decimals}f}"
    if value.defined < value.seeds:
        text += f" ({value.defined}/{value.seeds})"
    return text


def _cells(comparison: Comparison) -> list[list[str]]:
    return [
        [method, *(_cell(row[column.key], column) for column in comparison.columns)]
        for method, row in comparison.rows.items()
    ]


def _headings(comparison: Comparison) -> list[str]:
    return ["method", *(column.title for column in comparison.columns)]


def as_rich(comparison: Comparison, *, title: str) -> Table:
    """The comparison for a terminal, narrow enough for 80 columns.

    >>> as_rich(Comparison(columns=(), rows={"a": {}}), title="demo").row_count
    1
    """
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("method", overflow="fold")
    for column in comparison.columns:
        table.add_column(column.title.replace(" ", "\n"), justify="right", no_wrap=True)
    lines = [[cell.replace(" ± ", "\n±") for cell in cells] for cells in _cells(comparison)]
    for line in lines:
        table.add_row(*line)
    return table


def as_markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown table with aligned columns, readable as plain text.

    >>> print(as_markdown(compare({"a": [{"e": 0.5}]}, (Column(key="e", title="error"),))))
    | method | error |
    | ------ | ----: |
    | a      | 0.500 |
    """
    lines = [_headings(comparison), *_cells(comparison)]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(lines[0]))]

    def joined(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if not place else "-" * (width - 1) + ":" for place, width in enumerate(widths)
    ]
    return "\n".join([joined(lines[0]), joined(rule), *(joined(line) for line in lines[1:])])


def as_rows(comparison: Comparison) -> list[dict[str, str]]:
    """One mapping of headings to cells a method, as a record takes a table.

    >>> as_rows(compare({"a": [{"e": 0.5}]}, (Column(key="e", title="error"),)))
    [{'method': 'a', 'error': '0.500'}]
    """
    headings = _headings(comparison)
    return [dict(zip(headings, cells, strict=True)) for cells in _cells(comparison)]


def as_dict(comparison: Comparison) -> dict[str, dict[str, dict[str, float | int | None] | None]]:
    """Method to measurement to statistic, unscaled; nan becomes None, as JSON has no nan.

    >>> as_dict(compare({"a": [{"e": 0.5}]}, (Column(key="e", title="error"),)))
    {'a': {'e': {'mean': 0.5, 'standard_error': None, 'defined': 1, 'seeds': 1}}}
    """
    return {
        method: {key: None if value is None else _plain(value) for key, value in row.items()}
        for method, row in comparison.rows.items()
    }


def _plain(value: Statistic) -> dict[str, float | int | None]:
    return {
        "mean": None if math.isnan(value.mean) else value.mean,
        "standard_error": None if math.isnan(value.standard_error) else value.standard_error,
        "defined": value.defined,
        "seeds": value.seeds,
    }
