"""A table of runs: how each stands, and what came of it."""

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlo.errors import RunError
from mlo.report.values import leaves, number_of
from mlo.report.wording import duration, number
from mlo.run_directory import ABOUT, Run, State, read_run

_DEPTH: Final = 3
_NUMBERS: Final = 3
_LENGTH: Final = 120
_TABLE_WIDTH: Final = 120
_STYLES: Final = {
    State.RUNNING: "cyan",
    State.FINISHED: "green",
    State.INTERRUPTED: "yellow",
    State.FAILED: "red",
    State.DIED: "red",
    State.UNKNOWN: "magenta",
}


def listed(directory: Path, console: Console) -> None:
    """Print the runs in a directory and up to three folders below it, the newest first.

    What is damaged is said in the row of its run.

    Raises:
        RunError: There is no such directory.
    """
    if not directory.is_dir():
        raise RunError(f"{str(directory)!r} is no directory, expected one with runs in it")
    runs = sorted(map(read_run, _found(directory, 0)), key=_started, reverse=True)
    if not runs:
        console.print(Text(f"no runs in {_printable(str(directory))}"))
        return
    now = datetime.now(UTC)
    rows = [
        {c: _printable(text) for c, text in _cells(run, directory, now).items()} for run in runs
    ]
    if console.width < _TABLE_WIDTH:
        for row in rows:
            console.print(_block(row))
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        # Only a result is worth more than one line.
        table.add_column(column, no_wrap=column != "result", overflow="ellipsis")
    for row in rows:
        table.add_row(*(_styled(column, text) for column, text in row.items()))
    console.print(table)


def _block(row: Mapping[str, str]) -> Text:
    """Return a run as lines, for a terminal too narrow for the table."""
    first = [_styled(c, row[c]) for c in ("run", "state", "started", "took") if row[c]]
    second = ": ".join(row[column] for column in ("program", "result") if row[column])
    return Text("  ").join(first) + Text(f"\n  {second}" if second else "")


def _styled(column: str, text: str) -> Text:
    return Text(text, style=_STYLES[State(text)] if column == "state" else "")


def _found(directory: Path, depth: int) -> Iterator[Path]:
    if (directory / ABOUT).is_file():
        yield directory
        return
    if depth == _DEPTH:
        return
    try:
        with os.scandir(directory) as entries:
            # A link to the latest run would list it twice.
            names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in names:
        yield from _found(directory / name, depth + 1)


def _cells(run: Run, directory: Path, now: datetime) -> dict[str, str]:
    about = run.about
    name = str(run.directory.relative_to(directory))
    started = _moment(about.get("started"))
    program = about.get("program")
    resumed = about.get("resumed")
    return {
        "run": run.directory.resolve().name if name == "." else name,
        "program": program if isinstance(program, str) else "",
        "state": run.state,
        "started": "" if started is None else _local(started),
        "took": _took(run, started, now),
        "resumed": f"{resumed}×" if isinstance(resumed, int) and 0 < resumed < 10**6 else "",
        "result": _result(run),
    }


def _result(run: Run) -> str:
    """Return what came of a run: what is wrong with it, or its headline, or where it stands."""
    error = run.about.get("error")
    if run.problem:
        return run.problem
    if isinstance(error, str) and run.state is State.FAILED:
        return error
    texts = [run.result.get("headline"), run.about.get("headline"), _numbers(run.result)]
    if run.state is not State.FINISHED:
        texts.append(run.about.get("at"))
    return next((text for text in texts if isinstance(text, str) and text), "")


def _numbers(result: Mapping[str, Any]) -> str:
    found = ((name, number_of(value)) for name, value in leaves(result, depth=2))
    shown = [f"{name} {number(value)}" for name, value in found if value is not None]
    return "  ".join(shown[:_NUMBERS])


def _took(run: Run, started: datetime | None, now: datetime) -> str:
    seconds = run.about.get("seconds")
    if isinstance(seconds, int) and 0 <= seconds < 1 << 53:
        # Written once a minute at most.
        updated = _moment(run.about.get("updated"))
        more = (now - updated).total_seconds() if updated and run.state is State.RUNNING else 0.0
        return duration(seconds + max(0.0, more))
    ended = _moment(run.about.get("ended", run.about.get("updated")))
    return "" if started is None or ended is None else duration((ended - started).total_seconds())


def _started(run: Run) -> datetime:
    return _moment(run.about.get("started")) or datetime.min.replace(tzinfo=UTC)


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError):
        return None


def _local(moment: datetime) -> str:
    try:
        return f"{moment.astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return ""


def _printable(text: str) -> str:
    """Return a text without what a terminal would take for a command."""
    shown = "".join(c if c.isprintable() else "�" for c in text[: _LENGTH + 1])
    return shown if len(shown) <= _LENGTH else f"{shown[: _LENGTH - 1]}…"
