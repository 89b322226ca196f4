"""How far the record of a run had come when its checkpoints were taken."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlo.checkpoint.checkpoints import Checkpoints
from mlo.checkpoint.file import read
from mlo.errors import CheckpointError

Position = dict[str, int]
"""Sizes of files, by name."""


def latest_position(root: Path) -> Position:
    """Return the furthest position among the newest checkpoints of all folders below `root`.

    Files only grow, so of two positions the larger one is the later. Checkpoints that cannot be
    read are passed over: whoever loads them will say so.
    """
    furthest: Position = {}
    for path in _newest(root):
        try:
            found = position_in(read(path).state)
        except CheckpointError:
            continue
        furthest = {n: max(size, furthest.get(n, 0)) for n, size in found.items()}
    return furthest


def position_in(state: Any) -> Position:
    """Return the position that a state holds, empty if it holds none.

    >>> position_in({"record": {"metrics.jsonl": 12}}), position_in([1])
    ({'metrics.jsonl': 12}, {})
    """
    found = state.get("record") if isinstance(state, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return {str(name): size for name, size in found.items() if isinstance(size, int)}


def set_aside_later(path: Path, root: Path) -> list[Path]:
    """Rename every checkpoint below `root` that was taken after the one at `path`.

    Return the new paths.

    Raises:
        CheckpointError: `path` is no checkpoint, or a file cannot be renamed.
    """
    moved = Checkpoints(directory=path.parent).set_aside_after(path)
    chosen = position_in(read(path).state)
    for other in sorted(root.rglob("round-*.mlo")):
        if other.parent == path.parent:
            continue
        try:
            found = position_in(read(other).state)
        except CheckpointError:
            continue
        if any(size > chosen.get(name, 0) for name, size in found.items()):
            moved.append(other.rename(other.with_name(f"{other.name}.aside")))
    return moved


def _newest(root: Path) -> Iterator[Path]:
    folders = {path.parent for path in root.rglob("round-*.mlo")} if root.is_dir() else set()
    for folder in sorted(folders):
        if paths := Checkpoints(directory=folder).paths():
            yield paths[-1]
