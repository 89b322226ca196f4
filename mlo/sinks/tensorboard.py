"""Events in the files that TensorBoard reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlo.events import Event, Histogram, Image, Line, Scalars, Table
from mlo.inside import inside
from mlo.picture import size_of
from mlo.sinks.event_file import EventFile

FOLDER: Final = "tensorboard"
_ROWS: Final = 200
_LARGEST: Final = 2**63 - 1


class TensorBoard:
    """Writes scalars, histograms, images and tables; lines of the user's own have no place there.

    Each scope is a folder, and so one of TensorBoard's runs: the seeds of one method lie over each
    other in one picture, and what a resumed run does again takes the place of what came of it the
    first time, without touching what other scopes have recorded.

    Args:
        directory: The run directory.
        resuming: Whether an earlier process has recorded the beginning.
    """

    def __init__(self, directory: Path, *, resuming: bool = False) -> None:
        self._directory = directory
        self._resuming = resuming
        self._files: dict[str, EventFile] = {}
        self._gone_on: set[str] = set()

    def write(self, event: Event, /) -> None:
        """Write one event.

        Raises:
            ImportError: `tensorboard` is not installed.
            OSError: It cannot be written.
        """
        if isinstance(event, Line):
            return
        step = event.step if event.step is None else max(-_LARGEST, min(event.step, _LARGEST))
        file = self._file(event.scope, step)
        if isinstance(event, Scalars):
            file.scalars(step, [(_tag(name), value) for name, value in event.values.items()])
        elif isinstance(event, Histogram):
            file.histogram(step, _tag(event.name), event.edges, event.counts)
        elif isinstance(event, Image):
            width, height = size_of(event.png)
            file.image(step, _tag(event.name), event.png, width=width, height=height)
        elif isinstance(event, Table):
            file.text(step, _tag(event.name), _markdown(event))

    def close(self) -> None:
        """Do nothing: everything is written already."""

    def _file(self, scope: str, step: int | None) -> EventFile:
        # The first step after an interruption is the earliest that is done again.
        goes_on = self._resuming and step is not None and scope not in self._gone_on
        if goes_on or scope not in self._files:
            folder = inside(self._directory, f"{FOLDER}/{scope}" if scope else FOLDER)
            self._files[scope] = EventFile(folder, purge_step=step if goes_on else None)
        if goes_on:
            self._gone_on.add(scope)
        return self._files[scope]


def _tag(name: str) -> str:
    # Halves of surrogate pairs, as undecodable file names have, are no text for it.
    return name.encode("utf-8", "replace").decode()


def _markdown(table: Table) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows[:_ROWS]]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "–"
    if isinstance(value, Mapping | list):
        return "…"
    return " ".join(_tag(str(value)).replace("|", "\\|").split())
