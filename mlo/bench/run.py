"""Running cases: one table and one JSON file each."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from rich.console import Console

from mlo.bench.case import Case, Settings
from mlo.bench.report import document, table
from mlo.record import Record


def run_cases(cases: Sequence[Case], settings: Settings, console: Console) -> None:
    """Run `cases` one after the other, print their tables and write ``<out>/<case>.json``."""
    record = Record(directory=settings.out, console=console)
    with _threads(settings.threads):
        for case in cases:
            record.print(f"{case.name}: {case.summary}")
            result = case.run(settings)
            content = json.dumps(document(case, settings, result), indent=2, allow_nan=False)
            # Whole or not at all: a run that is cut off leaves the results of the last one.
            record.text(f"{case.name}.json", f"{content}\n")
            record.print(result.title, table(result))
            for note in result.notes:
                record.print(f"  {note}")
            record.print(f"  {record.path(f'{case.name}.json')}\n")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
