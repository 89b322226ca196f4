"""What a result looks like: a table for people, JSON for machines."""

import math
from dataclasses import asdict
from datetime import UTC, datetime

from rich.table import Table

from mlo.bench.case import Case, Cell, Result, Settings
from mlo.bench.machine import commit, machine, versions
from mlo.bench.ratio import Ratio

SCHEMA = 1
"""Raised whenever a field of the JSON changes its meaning."""


def table(result: Result) -> Table:
    """Return the rows of a result as a table; a column stands wherever one row has it.

    >>> table(Result(title="t", rows=[{"a": 1}, {"b": None}])).row_count
    2
    """
    drawn = Table()
    columns = list(dict.fromkeys(column for row in result.rows for column in row))
    for column in columns:
        values = [row.get(column) for row in result.rows]
        is_text = any(isinstance(value, str) for value in values)
        is_ratio = any(isinstance(value, Ratio) for value in values)
        drawn.add_column(column, justify="left" if is_text else "right", no_wrap=is_ratio)
    for row in result.rows:
        drawn.add_row(*(_text(row.get(column)) for column in columns))
    return drawn


def document(case: Case, settings: Settings, result: Result) -> dict[str, object]:
    """Return what is known of one run, ready for JSON.

    In ``rows`` a ratio is its median; ``ratios`` has the quartiles, by row number and column.
    """
    return {
        "schema": SCHEMA,
        "case": case.name,
        "summary": case.summary,
        "title": result.title,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(settings.device),
        "versions": versions(),
        "settings": {
            "quick": settings.quick,
            "seed": settings.seed,
            "threads": settings.threads,
            "device": str(settings.device),
        },
        "rows": [{column: _plain(value) for column, value in row.items()} for row in result.rows],
        "ratios": [
            {"row": number, "column": column, **asdict(value)}
            for number, row in enumerate(result.rows)
            for column, value in row.items()
            if isinstance(value, Ratio)
        ],
        "notes": list(result.notes),
    }


def _plain(value: Cell) -> str | int | float | None:
    number = value.median if isinstance(value, Ratio) else value
    if isinstance(number, float) and not math.isfinite(number):
        return str(number)
    return number


def _text(value: Cell) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
