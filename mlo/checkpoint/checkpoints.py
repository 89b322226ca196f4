"""The checkpoints of one run: the last few and the best."""

import contextlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlo.atomic import target_of
from mlo.checkpoint.file import Checkpoint, read, read_header, write
from mlo.errors import CheckpointError

_NAME = re.compile(r"round-([0-9]{9}|[1-9][0-9]{9,})\.mlo")


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """A directory with the last `keep` checkpoints of a run, and the one with the lowest score.

    Only one process may save into it at a time. Files that are no checkpoints are left alone.

    Attributes:
        directory: Where they are; made when the first is saved.
        every: Rounds from one to the next.
        keep: How many of the last are kept.

    Raises:
        CheckpointError: A count is less than 1, or the directory is no path.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     checkpoints = Checkpoints(directory=Path(directory), keep=1)
    ...     for round, score in ((100, 0.1), (200, 0.3), (300, 0.2)):
    ...         _ = checkpoints.save({"x": round}, round=round, score=score)
    ...     [path.name for path in checkpoints.paths()], checkpoints.load().state
    (['round-000000100.mlo', 'round-000000300.mlo'], {'x': 300})
    """

    directory: Path
    every: int = 100
    keep: int = 3

    def __post_init__(self) -> None:
        """Check the fields; a directory may be given as a text."""
        if not isinstance(self.directory, str | Path):
            raise CheckpointError(
                "checkpoints: directory must be a path, got "
                f"{type(self.directory).__name__} {self.directory!r}"
            )
        object.__setattr__(self, "directory", Path(self.directory))
        for name in ("every", "keep"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CheckpointError(f"checkpoints: {name} must be an integer >= 1, got {value!r}")

    def save(self, state: Any, *, round: int, score: float | None = None) -> Path:
        """Write a state, remove what is not to be kept any more, and return the path.

        Args:
            state: What `mlo.checkpoint.plain.encode` takes.
            round: The round after which it was taken; a checkpoint of the same round is replaced.
            score: By which the best is kept, lower is better; None and nan are no scores.

        Raises:
            CheckpointError: It cannot be written; the others are as they were.
        """
        if isinstance(round, bool) or not isinstance(round, int) or round < 0:
            raise CheckpointError(f"checkpoints: round must be an integer >= 0, got {round!r}")
        path = self.directory / f"round-{round:09d}.mlo"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot make the directory of checkpoint {str(path)!r}: {error.strerror}"
            ) from error
        # First, as a killed write may have left the disk full.
        _remove(self._left_over())
        write(path, state, round=round, score=score)
        kept = {path, self.best(), *self.paths()[-self.keep :]}
        _remove(each for each in self.paths() if each not in kept)
        return path

    def paths(self) -> list[Path]:
        """Return the files, oldest round first.

        Raises:
            CheckpointError: The directory cannot be read.
        """
        found = [path for path in self._files() if _NAME.fullmatch(path.name)]
        return sorted(found, key=_round_of)

    def load(self, path: Path | None = None) -> Checkpoint | None:
        """Return the checkpoint in a file, by default the newest; None if there is none.

        Raises:
            CheckpointError: It cannot be read; the message offers the newest older one that can.
        """
        present = self.paths()
        if path is None and not present:
            return None
        chosen = present[-1] if path is None else Path(path)
        try:
            return read(chosen)
        except CheckpointError as error:
            good = next(filter(_is_good, reversed(_before(chosen, present))), None)
            if good is None:
                raise
            raise CheckpointError(
                f"{error}; the last good one is {str(good)!r} (round {_round_of(good)}): resume "
                f"from it with --resume {str(good)!r}"
            ) from error

    def best(self) -> Path | None:
        """Return the file with the lowest score, the latest of several; None if none has one."""
        scored: list[tuple[float, int, Path]] = []
        for path in self.paths():
            # One that is damaged is no best one.
            with contextlib.suppress(CheckpointError):
                score = read_header(path).score
                if score is not None and not math.isnan(score):
                    scored.append((score, -_round_of(path), path))
        return min(scored)[2] if scored else None

    def set_aside_after(self, path: Path) -> list[Path]:
        """Rename the checkpoints of later rounds to ``*.aside``; return their new paths.

        So a run goes on from an earlier one, and nothing is deleted.

        Raises:
            CheckpointError: `path` is none of the checkpoints, or a file cannot be renamed.
        """
        present = self.paths()
        chosen = Path(path)
        if not _is_among(chosen, present):
            names = ", ".join(each.name for each in present) or "none is there"
            raise CheckpointError(
                f"{str(path)!r} is no checkpoint in {str(self.directory)!r}, expected one of: "
                f"{names}"
            )
        moved = []
        for later in present:
            if _round_of(later) > _round_of(chosen):
                aside = _free(later.with_name(f"{later.name}.aside"))
                try:
                    moved.append(later.rename(aside))
                except OSError as error:
                    raise CheckpointError(
                        f"cannot set aside checkpoint {str(later)!r}: {error.strerror}"
                    ) from error
        return moved

    def _left_over(self) -> list[Path]:
        """Return the temporary files of writes that were killed."""
        targets = [(path, target_of(path)) for path in self._files()]
        return [path for path, target in targets if target and _NAME.fullmatch(target.name)]

    def _files(self) -> list[Path]:
        try:
            return [path for path in self.directory.iterdir() if path.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise CheckpointError(
                f"cannot read the directory {str(self.directory)!r} of checkpoints: "
                f"{error.strerror}"
            ) from error


def _round_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match.group(1))


def _before(chosen: Path, present: list[Path]) -> list[Path]:
    """Return the checkpoints of the same run of earlier rounds; of another file, none is known."""
    if not _is_among(chosen, present):
        return []
    return [path for path in present if _round_of(path) < _round_of(chosen)]


def _is_among(chosen: Path, present: list[Path]) -> bool:
    # Both may name the directory differently.
    try:
        return any(p.name == chosen.name and p.parent.samefile(chosen.parent) for p in present)
    except OSError:
        return False


def _is_good(path: Path) -> bool:
    try:
        read(path)
    except CheckpointError:
        return False
    return True


def _free(path: Path) -> Path:
    """Return `path`, or one that is like it and not taken."""
    taken = 1
    found = path
    while found.exists():
        taken += 1
        found = path.with_name(f"{path.name}-{taken}")
    return found


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        # The state is safe; what cannot be removed now is tried again at the next save.
        with contextlib.suppress(OSError):
            path.unlink()
