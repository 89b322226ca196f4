"""What a benchmark case is: settings in, a table of flat rows out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mlo.bench.ratio import Ratio

Cell = str | int | float | None | Ratio
"""One entry of a table; None prints as a dash, a `Ratio` with its quartiles."""
Row = dict[str, Cell]
"""One line of a table by column; rows of one case may lack columns."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a case is run.

    Attributes:
        quick: Sizes and repetitions that take seconds, to see that a case works. Its timings mean
            nothing.
        seed: Seeds data and initial parameters.
        threads: Threads of torch on the CPU.
        device: Where the case runs.
        out: Directory for what a case writes besides its table, such as plots.
    """

    quick: bool = False
    seed: int = 0
    threads: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    out: Path = Path("benchmarks", "results")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a case found.

    Attributes:
        title: Heading of the table.
        rows: The table, one flat row a measurement.
        notes: What a reader must know to read the numbers, one sentence each.
    """

    title: str
    rows: list[Row]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A named measurement.

    Attributes:
        name: What `mlo bench` calls it; an identifier.
        summary: One line on what is measured.
        run: Measures.
    """

    name: str
    summary: str
    run: Callable[[Settings], Result]
