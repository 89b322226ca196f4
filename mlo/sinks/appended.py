"""Pieces appended to a file, each whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def append(path: Path, piece: bytes) -> None:
    """Append a piece in one go, which a process that is killed after leaves behind.

    Raises:
        OSError: It cannot be written; what was written of it is taken back.
    """
    with opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
        before = os.fstat(file).st_size
        if (done := os.write(file, piece)) != len(piece):
            os.ftruncate(file, before)
            raise OSError(None, f"no space left: {done} of {len(piece)} bytes were written")


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Give the descriptor of a file; a link in its place, which may lead anywhere, is refused.

    It is opened anew each time: nothing is left open by records that are never closed, and nothing
    is shared with worker processes.
    """
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        yield file
    finally:
        os.close(file)
