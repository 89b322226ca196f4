"""The record of one run: its directory, its metrics and results, its console."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console, RenderableType

from mlo.errors import ConfigError, ProgramError


@runtime_checkable
class _Array(Protocol):
    """Tensors, arrays and their scalars, named by what they share, to import neither library."""

    def tolist(self) -> Any: ...


@dataclass(frozen=True)
class Record:
    """The directory that one run writes, and the console that it prints to.

    Attributes:
        directory: Where everything is written; made by `create`.
        console: Where `print` and progress displays go.
    """

    directory: Path
    console: Console

    @classmethod
    def create(cls, directory: Path, *, console: Console) -> "Record":
        r"""Return a record that owns `directory`, which is made unless it exists and is empty.

        Raises:
            ConfigError: The directory holds something already, or cannot be made.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as parent:
        ...     record = Record.create(Path(parent, "run"), console=Console())
        ...     record.metrics(round=1, loss=0.5)
        ...     record.path("metrics.jsonl").read_text()
        '{"round": 1, "loss": 0.5}\n'
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            occupied = any(directory.iterdir())
        except OSError as error:
            raise ConfigError(
                f"cannot make the run directory {str(directory)!r}: {error.strerror}"
            ) from error
        if occupied:
            raise ConfigError(
                f"run directory {str(directory)!r}: expected a new or an empty one, as nothing is "
                "overwritten"
            )
        return cls(directory, console)

    def metrics(self, **values: object) -> None:
        """Append `values` as one line of ``metrics.jsonl``, complete on disk when this returns.

        Tensors and arrays become numbers or nested lists; infinite and undefined numbers, for
        which JSON has no form, become the strings ``"inf"``, ``"-inf"`` and ``"nan"``.

        Raises:
            ProgramError: A value is none that JSON can hold.
        """
        line = json.dumps(_jsonable(values, "metrics"), allow_nan=False)
        with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")

    def result(self, values: Mapping[str, object]) -> None:
        """Write `values`, converted as by `metrics`, to ``result.json``: all of it or nothing.

        Raises:
            ProgramError: A value is none that JSON can hold.
        """
        content = json.dumps(_jsonable(values, "result"), allow_nan=False, indent=2)
        self.text("result.json", f"{content}\n")

    def text(self, name: str, content: str) -> None:
        """Write `content` to the file `name` in the directory: all of it or nothing.

        Raises:
            ProgramError: The name leads out of the directory.
        """
        target = self.path(name)
        temporary = target.with_name(f".{target.name}.partial")
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Return the path of the file `name` in the directory, for what writes files by itself.

        Raises:
            ProgramError: The name leads out of the directory.
        """
        directory = self.directory.resolve()
        path = (directory / name).resolve()
        if path == directory or not path.is_relative_to(directory):
            raise ProgramError(f"file name {name!r}: expected a name inside the run directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def print(self, *objects: RenderableType) -> None:
        """Print text, as it is, and what rich renders (a table, say) to the console."""
        self.console.print(*objects, markup=False, highlight=False)


def _jsonable(value: object, name: str) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_jsonable(item, f"{name}.{index}") for index, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, _Array):
        return _jsonable(value.tolist(), name)
    raise ProgramError(
        f"{name}: expected a number, a text, a tensor or lists and mappings of them, "
        f"got {type(value).__name__}"
    )
