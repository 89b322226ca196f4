"""Tables of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlo.report.averaging import Estimate
from mlo.report.values import number_of, worded
from mlo.report.wording import counted, estimate


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A text, and whether it is a number."""

    text: str
    is_number: bool = False


_FEW: Final = 3
EMPTY = Cell(text="–")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table whose rows begin with their heading.

    Attributes:
        caption: What it shows; may be empty.
        columns: Headings, that of the row headings first.
        rows: As many cells as columns each.
        note: A remark below it; may be empty.
        is_detail: Whether it is folded at first.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    is_detail: bool = False

    def is_number(self, column: int) -> bool:
        """Return whether a column holds numbers, apart from gaps, and so stands at the right."""
        cells = [row[column] for row in self.rows if row[column] != EMPTY]
        return bool(cells) and all(cell.is_number for cell in cells)


def cell(value: Any) -> Cell:
    """Return a scalar of a record as a cell.

    >>> cell(0.25), cell(None)
    (Cell(text='0.25', is_number=True), Cell(text='–', is_number=False))
    """
    if value is None:
        return EMPTY
    return Cell(text=worded(value), is_number=number_of(value) is not None)


def estimated(value: Estimate | None, *, with_n: bool = False) -> Cell:
    """Return a mean with its standard error as a cell.

    >>> estimated(Estimate(mean=0.05, error=0.0123, n=4), with_n=True).text
    '0.050 ± 0.012 (4)'
    """
    if value is None:
        return EMPTY
    n = f" ({value.n:,})" if with_n else ""
    return Cell(text=f"{estimate(value.mean, value.error)}{n}", is_number=True)


def estimates(
    caption: str,
    heading: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[Estimate | None]],
) -> Grid:
    """Return a table of means; n stands in the heading of a column where it is the same."""
    heads, uniform = [heading], []
    for number, column in enumerate(columns):
        counts = {row[number].n for row in rows.values() if row[number] is not None}  # type: ignore[union-attr]
        uniform.append(len(counts) == 1)
        n = next(iter(counts)) if len(counts) == 1 else 0
        heads.append(f"{column} (n = {n:,})" if n > 1 else column)
    return Grid(
        caption=caption,
        columns=tuple(heads),
        rows=tuple(
            (
                Cell(text=name),
                *(estimated(e, with_n=not same) for e, same in zip(row, uniform, strict=True)),
            )
            for name, row in rows.items()
        ),
    )


def records(caption: str, rows: Sequence[Mapping[str, Any]], *, total: int, most: int) -> Grid:
    """Return a table of mappings, a column stands wherever one of them has the key."""
    columns = list(dict.fromkeys(key for row in rows[:most] for key in row))
    shown = columns[:most]
    cut = [] if total <= most else [f"the first {most:,} of {counted(total, 'row')}"]
    cut += [] if len(columns) <= most else [f"the first {most:,} of {len(columns):,} columns"]
    return Grid(
        caption=caption,
        columns=tuple(shown),
        rows=tuple(tuple(cell(row.get(key)) for key in shown) for row in rows[:most]),
        note="; ".join(cut),
        is_detail=len(rows) > _FEW,
    )
