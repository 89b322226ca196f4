"""What of a long comparison is done: one file for each result, written once it is there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from mlo.checkpoint.positions import latest_position
from mlo.errors import RunError
from mlo.record import Record

R = TypeVar("R")
_FOLDER = "done"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One file.

    Attributes:
        place: How many results were there before.
        position: Where the record then stood.
        result: The result as plain data; None in the first entry, which stands for the start.
    """

    place: int
    position: dict[str, int]
    result: Any


class Ledger(Generic[R]):
    """Results that a resumed run reads instead of making them again.

    On resuming, the record is cut back to where it stood at the last result, or at the last
    checkpoint if one is newer: what came after is made again, and would otherwise be there twice.

    Args:
        record: Whose directory keeps the results.
        kind: The class of a result, a dataclass.

    Raises:
        RunError: If a result in the directory cannot be read.
    """

    def __init__(self, record: Record, kind: type[R]) -> None:
        self._record = record
        self._adapter = TypeAdapter(kind)
        self._done: dict[str, R] = {}
        entries = self._entries() if record.resuming else {}
        if not entries:
            self._write("start", None)
            return
        last = max(entries.values(), key=lambda entry: entry.place).position
        saved = latest_position(record.directory / "checkpoints")
        # A file only grows, so of two positions the later one is larger.
        record.rewind({name: max(size, saved.get(name, 0)) for name, size in last.items()})

    def read(self, name: str) -> R | None:
        """Return the result of that name, or None if it is not done."""
        return self._done.get(name)

    def write(self, name: str, result: R) -> None:
        """Keep a result, on disk when this returns."""
        self._done[name] = result
        self._write(name, self._adapter.dump_python(result))

    def _write(self, name: str, result: Any) -> None:
        entry = {"place": len(self._done), "position": self._record.position(), "result": result}
        # Python's JSON keeps numbers that are not finite, and every digit of the others.
        self._record.text(f"{_FOLDER}/{name}.json", json.dumps(entry) + "\n")

    def _entries(self) -> dict[str, _Entry]:
        folder = self._record.directory / _FOLDER
        entries: dict[str, _Entry] = {}
        for path in sorted(folder.rglob("*.json")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            entries[name] = self._entry(path)
            if name != "start":
                self._done[name] = self._result(path, entries[name])
        return entries

    def _entry(self, path: Path) -> _Entry:
        try:
            return TypeAdapter(_Entry).validate_python(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise _unreadable(path, error) from error

    def _result(self, path: Path, entry: _Entry) -> R:
        try:
            return self._adapter.validate_python(entry.result)
        except ValidationError as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RunError(
        f"{str(path)!r} is no result of this program ({reason}); begin the run anew in another "
        "directory"
    )
