"""The arguments of `mlo bench`, turned into a run."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mlo.bench.case import Settings
from mlo.bench.cases import CASES, chosen
from mlo.bench.plots import draw
from mlo.bench.run import run_cases
from mlo.device import resolve


def bench(names: Sequence[str], *, quick: bool, out: Path, device: str, console: Console) -> None:
    """Run the cases of these names, or all; write their results and pictures to `out`.

    Raises:
        ConfigError: If no case has one of the names.
        MloError: If the device does not exist, or variants are not equal.
    """
    cases = chosen(names)
    run_cases(cases, Settings(quick=quick, out=out, device=resolve(device)), console)
    for path in draw(out, out):
        console.print(f"wrote {path}", markup=False, highlight=False)


def listing() -> str:
    """Return one line for each case: its name and what it measures.

    >>> "upper_step" in listing()
    True
    """
    width = max(len(case.name) for case in CASES)
    return "\n".join(f"{case.name:{width}}  {case.summary}" for case in CASES)
