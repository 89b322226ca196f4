"""The record of one run: its directory, what is taken down while it goes on, its console."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rich.console import Console, RenderableType
from torch import Tensor

from mlo.atomic import write_text
from mlo.checkpoint.checkpoints import Checkpoints
from mlo.elsewhere import Elsewhere
from mlo.errors import ConfigError, MloError, ProgramError, RunError
from mlo.events import Event, Line, histogram_of, image_of, line_of, scalars_of, table_of
from mlo.inside import inside
from mlo.jsonable import jsonable
from mlo.pace import is_drawn_over, pace_of
from mlo.ranks import Ranks
from mlo.run_directory import RESULT, RunFile, State
from mlo.sinks.console import ConsoleLines
from mlo.sinks.guarded import Guarded
from mlo.sinks.json_lines import JsonLines
from mlo.sinks.pictures import Pictures
from mlo.sinks.protocol import Sink
from mlo.sinks.tensorboard import TensorBoard
from mlo.warned import Warned

_METRICS: Final = "metrics.jsonl"
_LENGTH: Final = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """The directory that one run writes, and the console that it prints to.

    As a context it says in the directory how the run ended: finished, or interrupted, or failed
    with an error; see `close`.

    Attributes:
        directory: Where everything is written; made by `create`.
        console: Where `print` and progress displays go.
        sinks: Where events go.
        scope: The name under which scalars, images and checkpoints lie, such as "lbg/seed-0".
        resuming: Whether an earlier process has begun this run.
        ranks: The processes that share the run; None if there is but this one.
        run: Says in the directory how the run stands; None for a directory that is no run's.
        warned: Says what could not be written; None for a directory that is no run's.
        elsewhere: Takes the files of a rank that leaves the writing to another; None if this
            process writes.
    """

    directory: Path
    console: Console
    sinks: tuple[Sink, ...] = ()
    scope: str = ""
    resuming: bool = False
    ranks: Ranks | None = None
    run: RunFile | None = None
    warned: Warned | None = None
    elsewhere: Elsewhere | None = None

    @property
    def writes(self) -> bool:
        """Whether this process is the one of its ranks that writes."""
        return self.elsewhere is None

    @classmethod
    def create(cls, directory: Path, *, console: Console, ranks: Ranks | None = None) -> "Record":
        r"""Return a record that owns `directory`, which is made unless it exists and is empty.

        Raises:
            ConfigError: The directory holds something already, or cannot be made.
            RunError: Another process has just begun a run there, or it cannot be written.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as parent:
        ...     with Record.create(Path(parent, "run"), console=Console()) as record:
        ...         record.metrics(round=1, loss=0.5)
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
        return cls._of(directory, console, ranks, RunFile.begin(directory), resuming=False)

    @classmethod
    def resume(cls, directory: Path, *, console: Console, ranks: Ranks | None = None) -> "Record":
        """Return a record that goes on in the directory of an earlier process.

        Raises:
            RunError: It is no run directory, its run is finished, a process still runs it, or its
                files cannot be written.
        """
        run = RunFile.reopen(directory)
        try:
            JsonLines(directory / _METRICS).repair()
        except OSError as error:
            run.end(State.FAILED, f"{_METRICS} cannot be written")
            raise RunError(
                f"cannot repair {str(directory / _METRICS)!r}: {error.strerror}"
            ) from error
        return cls._of(directory, console, ranks, run, resuming=True)

    @classmethod
    def silent(
        cls,
        directory: Path,
        *,
        console: Console,
        ranks: Ranks | None = None,
        resuming: bool = False,
    ) -> "Record":
        """Return the record of a rank that leaves the writing to another."""
        return cls(
            directory=directory,
            console=console,
            ranks=ranks,
            resuming=resuming,
            elsewhere=Elsewhere(),
        )

    @classmethod
    def _of(
        cls,
        directory: Path,
        console: Console,
        ranks: Ranks | None,
        run: RunFile,
        *,
        resuming: bool,
    ) -> "Record":
        warned = Warned(console, run)
        named: dict[str, Sink] = {
            "images": Pictures(directory),
            _METRICS: JsonLines(directory / _METRICS),
            "tensorboard": TensorBoard(directory, resuming=resuming),
        }
        if not is_drawn_over(console):
            named["console"] = ConsoleLines(console, pace_of(console))
        return cls(
            directory=directory,
            console=console,
            sinks=tuple(Guarded(name, sink, warned) for name, sink in named.items()),
            resuming=resuming,
            ranks=ranks,
            run=run,
            warned=warned,
        )

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, KeyboardInterrupt):
            self.close(State.INTERRUPTED)
        else:
            self.close(State.FAILED, error)

    def within(self, scope: str) -> "Record":
        """Return the same record with everything under the name `scope`.

        Raises:
            ProgramError: Its parts, between slashes, are not all names that a folder can have.
        """
        if not all(_is_name(part) for part in scope.split("/")):
            raise ProgramError(
                f"scope {scope!r}: expected names of at most {_LENGTH} printable characters, "
                "separated by slashes, such as 'lbg/seed-0'"
            )
        return replace(self, scope=f"{self.scope}/{scope}" if self.scope else scope)

    def scalars(self, values: Mapping[str, float | Tensor], *, step: int | None) -> None:
        """Take down numbers by name; names ``a/b`` and ``a/c`` belong in one picture.

        Tensors of one entry that are on an accelerator are fetched together.

        Raises:
            ProgramError: A value is no number.
        """
        self._write(scalars_of(self.scope, step, values))

    def histogram(self, name: str, values: Tensor, *, step: int | None) -> None:
        """Take down how the entries of a tensor are distributed; see `mlo.histogram.counted`.

        Raises:
            ProgramError: They are no real numbers, or spread over processes.
        """
        self._write(histogram_of(self.scope, step, name, values))

    def image(self, name: str, image: Tensor | Any | Path, *, step: int | None) -> None:
        """Take down a picture: numbers or a PNG file, as `mlo.picture.png_of` takes them.

        Raises:
            ProgramError: It has another shape or type, or is no PNG file.
        """
        self._write(image_of(self.scope, step, name, image))

    def table(
        self, name: str, rows: Iterable[Mapping[str, Any]], *, step: int | None = None
    ) -> None:
        """Take down rows, each a mapping of columns to numbers or texts.

        Raises:
            ProgramError: A row is no mapping, or a value is none that JSON can hold.
        """
        self._write(table_of(self.scope, step, name, rows))

    def metrics(self, **values: object) -> None:
        """Append `values` as one line of ``metrics.jsonl``, in the file when this returns.

        Tensors and arrays become numbers or nested lists; infinite and undefined numbers, for
        which JSON has no form, become the strings ``"inf"``, ``"-inf"`` and ``"nan"``.

        Raises:
            ProgramError: A value is none that JSON can hold.
        """
        self._write(line_of(self.scope, values))

    def position(self) -> dict[str, int]:
        """Return how far ``metrics.jsonl`` has come, for `rewind`; so much is on the disk then."""
        lines = JsonLines(self.directory / _METRICS)
        with self._going_on(_METRICS):
            lines.flush()
        return {_METRICS: lines.size()}

    def rewind(self, position: Mapping[str, int] | None) -> None:
        """Cut ``metrics.jsonl`` back to where it was: what followed is about to happen again.

        Raises:
            RunError: It is no position, or the file cannot be written.
        """
        if not self.writes or position is None:
            return
        size = position.get(_METRICS) if isinstance(position, Mapping) else None
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise RunError(f"expected a position of {_METRICS}, got {position!r}")
        try:
            kept = JsonLines(self.directory / _METRICS).cut(size)
        except OSError as error:
            raise RunError(
                f"cannot cut {str(self.directory / _METRICS)!r}: {error.strerror}"
            ) from error
        if kept < size:
            self._warn(f"warning: {size - kept} bytes of {_METRICS} were lost before the run died")

    def checkpoints(self, *, every: int = 100, keep: int = 3) -> Checkpoints:
        """Return the checkpoints of this record's scope.

        Raises:
            ProgramError: A link in the directory leads out of it.
            CheckpointError: A count is less than 1.
        """
        folder = "/".join(["checkpoints", self.scope] if self.scope else ["checkpoints"])
        inside(self.directory, folder)
        return Checkpoints(directory=self.directory / folder, every=every, keep=keep)

    def result(self, values: Mapping[str, object]) -> None:
        """Write `values`, converted as by `metrics`, to ``result.json``: all of it or nothing.

        An entry ``headline``, a short text, is what lists of runs show.

        Raises:
            ProgramError: A value is none that JSON can hold.
            RunError: The file cannot be written.
        """
        content = json.dumps(jsonable(values, "result"), allow_nan=False, indent=2)
        self.text(RESULT, f"{content}\n")
        if isinstance(headline := values.get("headline"), str):
            self.describe(headline=headline)

    def text(self, name: str, content: str) -> None:
        """Write `content` to the file `name` in the directory: all of it or nothing.

        Raises:
            ProgramError: The name leads out of the directory.
            RunError: The file cannot be written.
        """
        target = inside(self.directory, name)
        if not self.writes:
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, content)
        except OSError as error:
            raise RunError(f"cannot write {str(target)!r}: {error.strerror}") from error

    def path(self, name: str) -> Path:
        """Return the path of the file `name` in the directory, for what writes files by itself.

        On a rank that writes nothing it lies in a temporary directory.

        Raises:
            ProgramError: The name leads out of the directory.
            RunError: The folder that it is in cannot be made.
        """
        path = inside(self.directory, name)
        if self.elsewhere is not None:
            path = self.elsewhere.directory() / path.relative_to(self.directory.resolve())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {str(path.parent)!r}: {error.strerror}") from error
        return path

    def print(self, *objects: RenderableType) -> None:
        """Print text, as it is, and what rich renders (a table, say) to the console."""
        if self.writes:
            self.console.print(*objects, markup=False, highlight=False)

    def describe(self, **about: Any) -> None:
        """Add to ``run.json``: program, command, graph and the like.

        Raises:
            ProgramError: A value is none that JSON can hold.
        """
        if self.run is not None:
            with self._going_on("run.json"):
                self.run.note(**about)

    def close(
        self, state: State = State.FINISHED, error: BaseException | str | None = None
    ) -> None:
        """End the run: say in ``run.json`` how it ended, and let go of the directory.

        Only the first call counts. A record that is never closed lets go when its process ends,
        and its run then reads as one that died.

        Args:
            state: Finished, interrupted or failed.
            error: Why it failed.
        """
        for sink in self.sinks:
            sink.close()
        if self.run is not None:
            with self._going_on("run.json"):
                self.run.end(state, None if error is None else _in_one_line(error))

    def _write(self, event: Event) -> None:
        for sink in self.sinks:
            sink.write(event)
        if self.run is not None and not isinstance(event, Line) and event.step is not None:
            at = f"{self.scope}, step {event.step}" if self.scope else f"step {event.step}"
            with self._going_on("run.json"):
                self.run.sign_of_life(at)

    @contextmanager
    def _going_on(self, name: str) -> Iterator[None]:
        """Warn, and go on, if a file cannot be written."""
        try:
            yield
        except OSError as error:
            self._warn(f"warning: {name} cannot be written: {error.strerror}")

    def _warn(self, text: str) -> None:
        if self.warned is not None:
            self.warned(text)


def _is_name(part: str) -> bool:
    fits = part.isprintable() and "\\" not in part and part.strip() == part
    return fits and 0 < len(part) <= _LENGTH and part.strip(".") != ""


def _in_one_line(error: BaseException | str) -> str:
    lines = str(error).splitlines()
    text = lines[0] if lines else ""
    if isinstance(error, MloError | str):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
