"""Events as lines of JSON, each whole or not there."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlo.events import Event
from mlo.sinks.appended import append, opened

_BLOCK: Final = 1 << 16


class JsonLines:
    """Appends one line for each event, handed to the system in one piece.

    A process that is killed leaves at most its last line torn; `repair` cuts that off.

    Args:
        path: The file, made with the first line; a link in its place is not followed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: Event, /) -> None:
        """Append a line.

        Raises:
            OSError: The file cannot be written; what was written of the line is taken back.
        """
        append(self._path, json.dumps(event.line(), allow_nan=False).encode() + b"\n")

    def size(self) -> int:
        """Return the bytes written so far."""
        try:
            return self._path.lstat().st_size
        except FileNotFoundError:
            return 0

    def flush(self) -> None:
        """Return when all that was written is on the disk.

        Raises:
            OSError: It cannot be brought there.
        """
        with suppress(FileNotFoundError), opened(self._path, os.O_RDONLY) as file:
            os.fsync(file)

    def cut(self, size: int) -> int:
        """Cut the file back to an earlier size, and a torn line off that; return what it has now.

        Raises:
            OSError: It cannot be written.
        """
        try:
            with opened(self._path, os.O_RDWR) as file:
                kept = _end_of_lines(file, min(size, os.fstat(file).st_size))
                os.ftruncate(file, kept)
                os.fsync(file)
                return kept
        except FileNotFoundError:
            return 0

    def repair(self) -> None:
        """Cut off a last line that does not end; raises as `cut` does."""
        self.cut(self.size())

    def close(self) -> None:
        """Do nothing: every line is written already."""


def _end_of_lines(file: int, size: int) -> int:
    """Return where the last whole line within the first bytes of a file ends."""
    while size > 0:
        start = max(0, size - _BLOCK)
        found = os.pread(file, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0
