"""Paths that stay inside a directory, whatever names and links are."""

from pathlib import Path

from mlo.errors import ProgramError


def inside(directory: Path, name: str) -> Path:
    """Return the path that `name` leads to from a directory, links resolved.

    Raises:
        ProgramError: It leads out of the directory, or nowhere.
    """
    root = directory.resolve()
    try:
        path = (root / name).resolve()
    # A zero byte in a name, and links in a circle.
    except (ValueError, RuntimeError, OSError) as error:
        raise ProgramError(f"file name {name!r}: {str(error).splitlines()[0]}") from error
    if path == root or not path.is_relative_to(root):
        raise ProgramError(f"file name {name!r}: expected a name inside the run directory")
    return path
