"""What was run: program, state, times, versions, command."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from mlo.report.grids import EMPTY, Cell, Grid
from mlo.report.page import Fact
from mlo.report.result import headline_of
from mlo.report.run import Run
from mlo.report.values import leaves, name_of, number_of, worded
from mlo.report.wording import duration, moment, shortened
from mlo.run_directory import State

_SHOWN_APART: Final = ("program", "graph", "versions", "command", "warning", "error", "resumed")
_TIMES: Final = ("started", "ended", "updated")
_IN_PAGE: Final = ("explanation", "headline", "seconds", "at")
_HANDLED: Final = frozenset(("schema", "state", *_SHOWN_APART, *_TIMES, *_IN_PAGE))
_MORE: Final = 24


def facts_of(run: Run) -> tuple[Fact, ...]:
    """Return what ``run.json`` says, the most telling first."""
    about = run.about
    facts = [Fact(name="directory", text=run.name)]
    times = [("started", _moment(about, "started")), ("ended", _moment(about, "ended"))]
    if not times[1][1]:
        times[1] = ("last sign of life", _moment(about, "updated"))
    facts += [Fact(name=name, text=text) for name, text in (*times, ("took", took(about))) if text]
    if number_of(about.get("resumed")):
        facts.append(Fact(name="resumed", text=worded(about["resumed"])))
    versions = about.get("versions")
    if isinstance(versions, Mapping):
        facts += [
            Fact(name=name_of(key), text=worded(value)) for key, value in _first(versions.items())
        ]
    facts += [Fact(name=name, text=text) for name, text in _rest(about)]
    command = command_of(about)
    if command:
        facts.append(Fact(name="command", text=command, is_code=True, is_long=True))
    for key in ("warning", "error"):
        if about.get(key) is not None:
            facts.append(Fact(name=key, text=_text(about[key]), is_long=True))
    return tuple(facts)


def overview_of(runs: Sequence[Run]) -> Grid:
    """Return the runs as a table, one a row."""
    return Grid(
        caption="Runs",
        columns=("run", "program", "state", "started", "took", "headline"),
        rows=tuple(
            (
                Cell(text=run.name),
                _cell(program_of(run)),
                _cell(state_of(run)),
                _cell(_moment(run.about, "started")),
                _cell(took(run.about)),
                _cell(headline_of(run.result)),
            )
            for run in runs
        ),
    )


def program_of(run: Run) -> str:
    """Return the name of the program, empty if it is not known."""
    return name_of(run.about.get("program"))


def state_of(run: Run) -> str:
    """Return the state, empty if it is not known."""
    return "" if run.state is State.UNKNOWN else run.state.value


def command_of(about: Mapping[str, Any]) -> str:
    """Return the command line."""
    command = about.get("command")
    if isinstance(command, list):
        return shortened(shlex.join(_text(part) for part in command[:200]), 2000)
    return shortened(command, 2000) if isinstance(command, str) else ""


def took(about: Mapping[str, Any]) -> str:
    """Return how long a run has lasted, empty if it is not known.

    >>> took({"started": "2025-03-01T14:00:00+00:00", "ended": "2025-03-01T14:01:15+00:00"})
    '1 min 15 s'
    """
    start, end = about.get("started"), about.get("ended", about.get("updated"))
    try:
        lasted = datetime.fromisoformat(end) - datetime.fromisoformat(start)  # type: ignore[arg-type]
        return duration(lasted.total_seconds())
    except (ValueError, TypeError, OverflowError):
        return ""


def _rest(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kept = {key: value for key, value in about.items() if key not in _HANDLED}
    for path, value in _first(leaves(kept)):
        if value is not None:
            yield path.replace("/", " "), worded(value)


def _first(items: Any) -> Iterator[Any]:
    return islice(items, _MORE)


def _moment(about: Mapping[str, Any], key: str) -> str:
    value = about.get(key)
    return moment(value) if isinstance(value, str) else ""


def _cell(text: str) -> Cell:
    return Cell(text=text) if text else EMPTY


def _text(value: Any) -> str:
    return shortened(value, 1000) if isinstance(value, str) else worded(value)
