"""``result.json``, whose form is free, as a headline, tables and numbers."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlo.report.averaging import Estimate
from mlo.report.grids import Cell, Grid, cell, estimated, records
from mlo.report.values import leaves, name_of, number_of
from mlo.report.wording import shortened

_ROWS, _COLUMNS, _TABLES = 200, 60, 20
_ERRORS: Final = ("standard_error", "error", "se")
_COUNTS: Final = ("defined", "n", "seeds")
_HEADLINE: Final = "headline"
SEPARATOR: Final = " / "
"""Between the parts of the name of a number."""


def headline_of(result: Mapping[str, Any]) -> str:
    """Return the short text in which a program says what came out; empty if it says none."""
    text = result.get(_HEADLINE)
    return shortened(text) if isinstance(text, str) else ""


def grids_of(result: Mapping[str, Any]) -> list[Grid]:
    """Return a result as tables: what is scalar first, then one for each mapping and list.

    A mapping of mappings is a table of rows and columns; a mapping with ``mean`` and
    ``standard_error`` is one cell of it.

    >>> [grid] = grids_of({"table": {"a": {"error": {"mean": 0.5, "standard_error": 0.25}}}})
    >>> grid.columns, grid.rows[0][1].text
    (('', 'error'), '0.50 ± 0.25')
    """
    plain = {k: v for k, v in result.items() if _is_cell(v) and k != _HEADLINE}
    grids = [_pairs("", plain)] if plain else []
    for key, value in result.items():
        if key not in plain and key != _HEADLINE:
            grid = _grid(name_of(key), value)
            grids += [grid] if grid.rows and grid.columns else []
    return grids[:_TABLES]


def numbers_of(
    result: Mapping[str, Any], path: str = "", depth: int = 6
) -> Iterator[tuple[str, Estimate]]:
    """Yield the numbers of a result by path, a mean with its error as one.

    >>> found = dict(numbers_of({"a": {"error": {"mean": 0.5, "standard_error": 0.25}}, "b": 2}))
    >>> found["a / error"].error, found["b"]
    (0.25, Estimate(mean=2.0, error=None, n=1))
    """
    for key, value in result.items():
        name = f"{path}{SEPARATOR}{name_of(key)}" if path else name_of(key)
        found = _estimate(value)
        if found is not None:
            yield name, found
        elif isinstance(value, Mapping) and depth:
            yield from numbers_of(value, name, depth - 1)
        elif (quantity := number_of(value)) is not None:
            yield name, Estimate(mean=quantity, error=None, n=1)


def _grid(caption: str, value: Any) -> Grid:
    if isinstance(value, list):
        rows = [r if isinstance(r, Mapping) else {"value": r} for r in value[:_ROWS]]
        named = [{name_of(k): v for k, v in row.items()} for row in rows]
        return records(caption, named, total=len(value), most=_ROWS)
    if value and all(_is_row(row) for row in value.values()):
        return _matrix(caption, value)
    if all(_is_cell(item) for item in value.values()):
        return _pairs(caption, value)
    return _pairs(caption, dict(leaves(value)))


def _matrix(caption: str, value: Mapping[str, Any]) -> Grid:
    columns = list(dict.fromkeys(key for row in value.values() for key in row))[:_COLUMNS]
    found = [_estimate(item) for row in value.values() for item in row.values()]
    counts = {each.n for each in found if each is not None}
    # What holds for every cell is said once.
    n = counts.pop() if len(counts) == 1 else 0
    return Grid(
        caption=caption,
        columns=("", *map(name_of, columns)),
        rows=tuple(
            (Cell(text=name_of(name)), *(_cell(row.get(key), with_n=not n) for key in columns))
            for name, row in list(value.items())[:_ROWS]
        ),
        note=f"mean ± standard error, n = {n:,}" if n else "",
    )


def _pairs(caption: str, value: Mapping[str, Any]) -> Grid:
    items = list(value.items())
    return Grid(
        caption=caption,
        columns=("quantity", "value"),
        rows=tuple((Cell(text=name_of(key)), _cell(item)) for key, item in items[:_ROWS]),
        note=f"the first {_ROWS} of {len(items):,} rows" if len(items) > _ROWS else "",
    )


def _cell(value: Any, *, with_n: bool = True) -> Cell:
    found = _estimate(value)
    return cell(value) if found is None else estimated(found, with_n=with_n and found.n > 0)


def _is_row(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(map(_is_cell, value.values()))
        and _estimate(value) is None
    )


def _is_cell(value: Any) -> bool:
    if isinstance(value, list):
        return not any(isinstance(item, list | Mapping) for item in value)
    return not isinstance(value, Mapping) or _estimate(value) is not None


def _estimate(value: Any) -> Estimate | None:
    """Return what a mapping such as ``{"mean": …, "standard_error": …, "n": …}`` says."""
    if not isinstance(value, Mapping) or "mean" not in value:
        return None
    mean = number_of(value["mean"])
    key = next((key for key in _ERRORS if key in value), None)
    if mean is None or key is None:
        return None
    counts = [number_of(value[key]) for key in _COUNTS if key in value]
    n = next((int(c) for c in counts if c is not None and 0 < c < 1e9), 0)
    return Estimate(mean=mean, error=number_of(value[key]), n=n)
