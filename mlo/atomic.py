"""Files that are there as a whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START, _END = ".", ".partial"


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there takes its place at the end.

    The content is on the disk before the name is: whenever the machine stops, the name leads to the
    old content or to the new one. If the block raises, or the content cannot be brought to the
    disk, `path` is as it was and nothing is left over. A killed process may leave its temporary
    file, which the next write of `path` replaces. Only one process may write a path at a time.

    Raises:
        OSError: Something cannot be written or flushed, or the block has written nothing.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     with written(Path(directory, "a")) as temporary:
    ...         _ = temporary.write_text("new")
    ...     Path(directory, "a").read_text(), os.listdir(directory)
    ('new', ['a'])
    """
    temporary = path.with_name(f"{_START}{path.name}{_END}")
    # It may be a link that leads elsewhere, which must not be written through.
    temporary.unlink(missing_ok=True)
    # Opened first, so that a directory that cannot be flushed is known before anything changes.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush_names(directory)
    finally:
        os.close(directory)
        temporary.unlink(missing_ok=True)


def target_of(path: Path) -> Path | None:
    """Return what a temporary file of `written` was to become, or None for any other file.

    >>> target_of(Path("runs", ".run.json.partial")), target_of(Path("runs", "run.json"))
    (PosixPath('runs/run.json'), None)
    """
    name = path.name.removeprefix(_START).removesuffix(_END)
    return path.with_name(name) if path.name == f"{_START}{name}{_END}" and name else None


def write_text(path: Path, content: str) -> None:
    """Write text as UTF-8: all of it or nothing; line ends stay as they are."""
    write_bytes(path, content.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes: all of them or nothing."""
    with written(path) as temporary:
        temporary.write_bytes(content)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_names(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        # Some network file systems know no such thing; their names are as safe as they get.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
