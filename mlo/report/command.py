"""``mlo report``: run directories in, one HTML file out."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from mlo.atomic import write_text
from mlo.errors import RunError
from mlo.report.groups import groups_of
from mlo.report.page import rendered
from mlo.report.run import load
from mlo.report.sections import page_of

_FILES: Final = ("run.json", "config.yaml", "metrics.jsonl", "result.json")


def report(directories: Sequence[Path], out: Path | None, console: Console) -> Path:
    """Write one self-contained HTML page about runs, and return its path.

    Parts that are damaged or missing are named on the page; what a run directory holds is escaped
    and never executed, and nothing outside of it is read.

    Args:
        directories: One or more run directories; a repeated one counts once.
        out: The file to write; ``report.html`` in the run directory, or of several in the
            directory that holds them all, if None.
        console: Where the path is printed.

    Raises:
        RunError: A directory holds no run, or the page cannot be written.
    """
    found = _distinct(directories)
    runs = [load(path, name=name) for path, name in zip(found, _names(found), strict=True)]
    target = _default(found) if out is None else out
    text = rendered(page_of(groups_of(runs)))
    _write(target, text)
    console.print(f"report: {target} ({len(text.encode()) / 1e6:.1f} MB)", markup=False)
    return target


def _distinct(directories: Sequence[Path]) -> list[Path]:
    if not directories:
        raise RunError("report: expected at least one run directory, got none")
    kept: dict[Path, Path] = {}
    for path in directories:
        if not path.is_dir():
            raise RunError(f"run directory {str(path)!r}: no such directory")
        if not any((path / name).exists() for name in _FILES):
            raise RunError(
                f"run directory {str(path)!r}: holds none of {', '.join(_FILES)}; expected a "
                "directory that `mlo run` made"
            )
        kept.setdefault(path.resolve(), path)
    return list(kept.values())


def _names(directories: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell the directories apart."""
    parts = [path.resolve().parts for path in directories]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("distinct paths have distinct parts")


def _default(directories: Sequence[Path]) -> Path:
    if len(directories) == 1:
        return directories[0] / "report.html"
    return Path(os.path.commonpath([path.resolve().parent for path in directories]), "report.html")


def _write(target: Path, text: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
    except OSError as error:
        raise RunError(f"cannot write {str(target)!r}: {error.strerror or error}") from error
