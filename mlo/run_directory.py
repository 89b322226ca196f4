"""What a run directory says of its run: ``run.json``, and a lock that is held while it is alive."""

import json
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch

from mlo.atomic import write_text
from mlo.errors import RunError
from mlo.jsonable import jsonable
from mlo.run_lock import LOCK as LOCK
from mlo.run_lock import RunLock, is_held

ABOUT = "run.json"
RESULT = "result.json"
SCHEMA = 1
_BYTES: Final = 16 << 20
_LINE: Final = 4 << 20
_SIGN_OF_LIFE_SECONDS: Final = 60.0


class State(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DIED = "died"
    """Its file says that it is running, but no process holds its lock."""
    UNKNOWN = "unknown"
    """Its file is missing or damaged."""


_WRITTEN: Final = (State.RUNNING, State.FINISHED, State.INTERRUPTED, State.FAILED)


class RunFile:
    """Owns a run directory: keeps ``run.json`` and holds the lock until `end`.

    Args:
        directory: The run directory, which exists.
        lock: Its lock.
        about: What ``run.json`` says.
        clock: Tells the time in seconds.

    Raises:
        OSError: The file cannot be written; the lock is released.
    """

    def __init__(
        self,
        directory: Path,
        lock: RunLock,
        about: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._about = dict(about)
        self._lock = lock
        self._clock = clock
        self._ended = False
        seconds = self._about.get("seconds")
        self._before = seconds if isinstance(seconds, int) and 0 <= seconds < 1 << 53 else 0
        self._start = self._written = clock()
        try:
            self._write()
        except OSError:
            lock.release()
            raise

    @classmethod
    def begin(cls, directory: Path) -> "RunFile":
        """Return the file of a run that begins.

        Raises:
            RunError: Another process runs there, a run is there already, or it cannot be written.
        """
        lock = RunLock(directory)
        if os.path.lexists(directory / ABOUT):
            lock.release()
            raise RunError(f"{str(directory)!r} holds a run already: resume it, or go elsewhere")
        about = {
            "schema": SCHEMA,
            "state": State.RUNNING,
            "started": _now(),
            "resumed": 0,
            "versions": _versions(),
        }
        return cls._made(directory, lock, about)

    @classmethod
    def reopen(cls, directory: Path) -> "RunFile":
        """Return the file of a run that goes on.

        Raises:
            RunError: It is no run directory, its run is finished, a process still runs it, or it
                cannot be written.
        """
        # Nothing is believed of what was read before the lock was held, but who must not take it.
        _check_resumable(read_run(directory))
        lock = RunLock(directory)
        run = read_run(directory)
        try:
            _check_resumable(run)
        except RunError:
            lock.release()
            raise
        resumed = run.about.get("resumed")
        kept = {k: v for k, v in run.about.items() if k not in ("error", "ended")}
        about = {
            **jsonable(kept, ABOUT),
            "state": State.RUNNING,
            "resumed": (resumed if isinstance(resumed, int) and 0 <= resumed < 1 << 53 else 0) + 1,
            "versions": _versions(),
        }
        return cls._made(directory, lock, about)

    @classmethod
    def _made(cls, directory: Path, lock: RunLock, about: Mapping[str, Any]) -> "RunFile":
        try:
            return cls(directory, lock, about)
        except OSError as error:
            raise RunError(f"cannot write {str(directory / ABOUT)!r}: {error.strerror}") from error

    def note(self, **values: Any) -> None:
        """Add to what ``run.json`` says.

        Raises:
            ProgramError: A value is none that JSON can hold.
            OSError: The file cannot be written; it is as it was.
        """
        self._about |= jsonable(values, ABOUT)
        self._write()

    def warn(self, text: str) -> None:
        """Add a warning to what ``run.json`` says; raises as `note` does."""
        before = self._about.get("warning")
        if not isinstance(before, str):
            self.note(warning=text)
        elif text not in before:
            self.note(warning=f"{before}; {text}")

    def sign_of_life(self, at: str) -> None:
        """Say how far the run has come, at most once a minute; raises as `note` does."""
        if not self._ended and self._clock() - self._written >= _SIGN_OF_LIFE_SECONDS:
            self.note(at=at)

    def end(self, state: State, error: str | None = None) -> None:
        """Say how the run ended, and release the lock; what follows an end is passed over.

        Raises:
            OSError: The file cannot be written; the lock is released all the same.
        """
        if self._ended:
            return
        self._ended = True
        self._about |= {"state": state, "ended": _now()}
        if error is not None:
            self._about["error"] = error
        try:
            self._write()
        finally:
            self._lock.release()

    def _write(self) -> None:
        # Also if it fails: a full disk is not asked again and again.
        self._written = self._clock()
        self._about["updated"] = _now()
        self._about["seconds"] = self._before + round(self._written - self._start)
        content = json.dumps(self._about, indent=2, allow_nan=False)
        write_text(self._directory / ABOUT, f"{content}\n")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What can be read of a run.

    Attributes:
        directory: Where it is.
        state: How it stands.
        about: What ``run.json`` says; empty if it cannot be read.
        result: What ``result.json`` says; empty if there is none, or it cannot be read.
        problem: What is wrong with its files, in words.
    """

    directory: Path
    state: State
    about: Mapping[str, Any]
    result: Mapping[str, Any]
    problem: str = ""


def is_run(directory: Path) -> bool:
    """Return whether a directory is that of a run."""
    return (directory / ABOUT).is_file()


def _check_resumable(run: "Run") -> None:
    place = str(run.directory)
    if run.state is State.UNKNOWN:
        raise RunError(f"{place!r} is no run directory that can be resumed: {run.problem}")
    if run.state is State.FINISHED:
        raise RunError(f"{place!r} is finished: there is nothing to resume")


def read_run(directory: Path) -> Run:
    """Read a run directory, whatever is in its files; it never waits and never raises."""
    about, problem = _mapping(directory / ABOUT)
    if problem:
        problem = problem if os.path.lexists(directory / ABOUT) else f"it has no {ABOUT}"
    elif about.get("schema") != SCHEMA:
        problem = f"{ABOUT} has another schema than {SCHEMA}"
    elif about.get("state") not in _WRITTEN:
        problem = f"{ABOUT} names no state"
    state = State.UNKNOWN if problem else State(about["state"])
    if state is State.RUNNING and not is_held(directory):
        state = State.DIED
    result, other = (
        _mapping(directory / RESULT) if os.path.lexists(directory / RESULT) else ({}, "")
    )
    return Run(
        directory=directory, state=state, about=about, result=result, problem=problem or other
    )


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a ``metrics.jsonl`` that are JSON objects; others are passed over."""
    try:
        with _regular(path) as stream:
            while line := stream.readline(_LINE):
                if len(line) == _LINE and not line.endswith(b"\n"):
                    _skip_line(stream)
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(value, dict):
                    yield value
    except OSError:
        return


def _skip_line(stream: BinaryIO) -> None:
    while (part := stream.readline(_LINE)) and not part.endswith(b"\n"):
        pass


def _mapping(path: Path) -> tuple[dict[str, Any], str]:
    """Return what a JSON file says, or what is wrong with it."""
    try:
        with _regular(path) as stream:
            content = stream.read(_BYTES + 1)
    except OSError as error:
        return {}, f"{path.name} cannot be read: {error.strerror}"
    if len(content) > _BYTES:
        return {}, f"{path.name} is larger than {_BYTES >> 20} MiB"
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}, f"{path.name} is damaged: it is not JSON"
    return (value, "") if isinstance(value, dict) else ({}, f"{path.name} is no JSON object")


def _regular(path: Path) -> BinaryIO:
    # A pipe of that name would be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(None, "no regular file")
    return os.fdopen(descriptor, "rb")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {
        "mlo": version("mlo-framework"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
