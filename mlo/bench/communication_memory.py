"""Bytes of a table of assignments with billions of rows, by the precision that it is kept in."""

import math
from dataclasses import dataclass
from typing import Final

from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.communication_cost import GIGABYTE

GROUPS: Final = 8
"""K, the columns of the table."""
MEMORY: Final = 80 * GIGABYTE
"""Of one GPU; a table may have half of it."""
HOST: Final = 2000 * GIGABYTE
"""Of one node of eight GPUs; a table may have half of it."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """In which precision a table and its optimizer's state are kept.

    Attributes:
        name: How tables call it.
        entry: Bytes of an entry, its moments included.
        row: Bytes of a row besides.
    """

    name: str
    entry: float
    row: float = 0.0

    def bytes(self, rows: int, width: int = GROUPS) -> float:
        """Return the size of a table.

        >>> Layout(name="", entry=12).bytes(10**9) / 1e9
        96.0
        """
        return rows * (self.entry * width + self.row)


LAYOUTS: Final = (
    Layout(name="float32, Adam in float32 (today)", entry=4 + 8),
    Layout(name="bfloat16, Adam in float32", entry=2 + 8),
    Layout(name="bfloat16, Adam in 8 bits", entry=2 + 2 + 2 * 4 / 2048),
    Layout(name="float32, one Adagrad number a row", entry=4, row=4),
    Layout(name="float32, plain SGD", entry=4),
    Layout(name="8 bits, plain SGD", entry=1),
)
"""Layouts by decreasing size, but for the last. Blocks of 8-bit moments have 2,048 entries."""


def run(settings: Settings) -> Result:
    """Compute the sizes."""
    del settings
    rows = [_row(layout, count) for count in (10**9, 10**10) for layout in LAYOUTS]
    return Result(title=f"A table of assignments to {GROUPS} groups", rows=rows, notes=NOTES)


def _row(layout: Layout, rows: int) -> Row:
    size = layout.bytes(rows)
    return {
        "rows": rows,
        "layout": layout.name,
        "bytes a row": size / rows,
        "GB": size / GIGABYTE,
        "GPUs of 80 GB": math.ceil(2 * size / MEMORY),
        "nodes of 2 TB": math.ceil(2 * size / HOST),
    }


NOTES: Final = (
    "COMPUTED. Half of the memory of a GPU, or of a node's host, may go to the table.",
    "Blocks of 8-bit moments have 2,048 entries and a scale each for both moments.",
)

CASE = Case(
    name="communication_memory",
    summary="bytes of a table of assignments with billions of rows",
    run=run,
)
