"""One run of a program from its beginning, or from where an earlier process left it."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from mlo import config, registry
from mlo.checkpoint.positions import set_aside_later
from mlo.errors import ConfigError, MloError, RunError
from mlo.interrupts import Interrupted, heeded
from mlo.program import Program
from mlo.ranks import Ranks
from mlo.record import Record
from mlo.run_directory import State, is_run, read_run

_CONFIG = "config.yaml"


def begin(
    name: str,
    program: Program[Any],
    settings: config.Config,
    directory: Path,
    *,
    console: Console,
    ranks: Ranks | None = None,
) -> None:
    """Run a program into a new directory.

    Args:
        name: What the program was called by: its registered name, or the path of its file.
        program: The program.
        settings: Its configuration.
        directory: New or empty.
        console: Where it prints.
        ranks: The processes that share the run.

    Raises:
        ConfigError: The directory is occupied, or the program refuses a value; it leaves no trace.
    """
    is_new = not directory.exists()
    if ranks is not None and ranks.rank != 0:
        record = Record.silent(directory, console=console, ranks=ranks)
    else:
        record = Record.create(directory, console=console, ranks=ranks)
    try:
        with _ended(name, record):
            record.text(_CONFIG, config.dump(settings))
            record.describe(program=name, command=["mlo", *sys.argv[1:]])
            record.print(f"{name}: results go to {directory}")
            _run(program, settings, record)
    except ConfigError:
        if record.writes:
            _discard(directory, whole=is_new)
        raise


def resume(
    path: Path, name: str | None = None, *, console: Console, ranks: Ranks | None = None
) -> None:
    """Go on with a run that was interrupted, failed or died.

    Args:
        path: The run directory; or one of its checkpoints, after which later ones are set aside.
        name: What the program is called by. A registered one need not be named; a file has to be,
            as a directory from elsewhere must not say what is executed.
        console: Where it prints.
        ranks: The processes that share the run; their number may have changed.

    Raises:
        RunError: There is no run to go on with.
        CheckpointError: Its newest checkpoint cannot be read.
    """
    directory = _directory_of(path)
    name = _program_of(directory, name)
    program = registry.load(name)
    settings = config.load(program.config, file=directory / _CONFIG)
    if ranks is not None and ranks.rank != 0:
        record = Record.silent(directory, console=console, ranks=ranks, resuming=True)
    else:
        record = Record.resume(directory, console=console, ranks=ranks)
    with _ended(name, record):
        if path != directory and record.writes:
            for later in set_aside_later(path.resolve(), directory.resolve() / "checkpoints"):
                record.print(f"set aside: {later}")
        if ranks is not None:
            # No rank may look for checkpoints before those that do not count are out of the way.
            ranks.gathered(None)
        record.print(f"{name}: goes on in {directory}")
        _run(program, settings, record)


def _run(program: Program[Any], settings: config.Config, record: Record) -> None:
    with heeded():
        if not record.resuming:
            graph = program.graph(settings)
            record.describe(graph=graph.draw(), explanation=graph.explain())
        program.run(settings, record)


@contextmanager
def _ended(name: str, record: Record) -> Iterator[None]:
    """Say in the run directory how the run ended, whatever happens."""
    place = str(record.directory)
    try:
        yield
    except KeyboardInterrupt as error:
        # Before anything is printed: the pipe that it goes to may be closed by now.
        record.close(State.INTERRUPTED)
        if isinstance(error, Interrupted) and error.round:
            record.print(f"interrupted after round {error.round}")
        record.print(f"go on with: {shlex.join(['mlo', 'run', *_named(name), '--resume', place])}")
        raise
    except BaseException as error:
        text = str(error).splitlines()[0] if str(error) else ""
        record.close(State.FAILED, text if isinstance(error, MloError) else f"{_kind(error)}{text}")
        raise
    record.close()


def _kind(error: BaseException) -> str:
    return f"{type(error).__name__}: "


def _program_of(directory: Path, name: str | None) -> str:
    """Return the program to go on with: the one that was named, or a registered one."""
    ran = read_run(directory).about.get("program")
    if not isinstance(ran, str):
        raise RunError(f"{str(directory)!r}: run.json does not say which program ran")
    ran = ascii(ran)[1:-1] if not ran.isprintable() else ran
    if name is not None and name != ran and Path(name).resolve() != Path(ran).resolve():
        raise RunError(f"{str(directory)!r} is a run of {ran!r}, got {name!r}")
    if name is None and ran not in registry.registered():
        raise RunError(
            f"{str(directory)!r} is a run of {ran!r}, which is no registered program; name the "
            f"file that is to be executed: mlo run {shlex.quote(ran)} --resume {str(directory)!r}"
        )
    return ran if name is None else name


def _named(name: str) -> list[str]:
    return [] if name in registry.registered() else [name]


def _directory_of(path: Path) -> Path:
    """Return the run directory that a path leads to or lies in."""
    if not path.exists():
        raise RunError(f"{str(path)!r} does not exist, expected a run directory or a checkpoint")
    if path.is_dir():
        if not is_run(path):
            raise RunError(f"{str(path)!r} is no run directory: it has no run.json")
        return path
    found = next((parent for parent in path.resolve().parents if is_run(parent)), None)
    if found is None:
        raise RunError(f"{str(path)!r} lies in no run directory")
    return found


def _discard(directory: Path, *, whole: bool) -> None:
    # Some impossible values show only when the program reads its data; then nothing has been run.
    traces = {_CONFIG, "run.json", "run.lock"}
    if all(path.name in traces for path in directory.iterdir()):
        for path in list(directory.iterdir()):
            path.unlink()
        if whole:
            directory.rmdir()
