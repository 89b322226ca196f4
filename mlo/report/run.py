"""One run directory as the page needs it, whatever state it is in."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlo.errors import ConfigError
from mlo.report.collected import Collected, collect
from mlo.report.faults import Faults
from mlo.report.reading import inside, mapping_of, text_of
from mlo.report.values import name_of
from mlo.run_directory import ABOUT, LOCK, State, read_run
from mlo.yaml12 import parse

RESULT: Final = "result.json"
_CONFIG: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a run directory holds.

    Attributes:
        directory: Where it is.
        name: What the page calls it.
        state: How it stands.
        about: ``run.json``: program, state, times, versions, command, graph.
        configuration: The text of ``config.yaml``; None if there is none.
        settings: Its values by dotted key; None if it cannot be read.
        result: ``result.json``.
        collected: ``metrics.jsonl``.
        faults: What is damaged or missing.
    """

    directory: Path
    name: str
    state: State
    about: Mapping[str, Any]
    configuration: str | None
    settings: Mapping[str, Any] | None
    result: Mapping[str, Any]
    collected: Collected
    faults: Faults


def load(directory: Path, *, name: str) -> Run:
    """Read a run directory, called `name`; parts that cannot be read are left empty and noted."""
    faults = Faults()
    text = text_of(directory, "config.yaml", faults, limit=_CONFIG)
    about = mapping_of(directory, ABOUT, faults)
    state = _state(directory, about, faults)
    # A run that has not come to its end has no result yet.
    awaits = state not in (State.FINISHED, State.UNKNOWN) and not (directory / RESULT).exists()
    return Run(
        directory=directory,
        name=name_of(name) or "run",
        state=state,
        about=about,
        configuration=text,
        settings=_settings(text, faults),
        result={} if awaits else mapping_of(directory, RESULT, faults),
        collected=collect(directory, faults),
        faults=faults,
    )


def _state(directory: Path, about: Mapping[str, Any], faults: Faults) -> State:
    # What is no regular file may be a pipe, which would be waited for, or lead elsewhere.
    unsafe = [
        name
        for name in (ABOUT, LOCK, RESULT)
        if os.path.lexists(directory / name) and inside(directory, name) is None
    ]
    if not about or unsafe:
        return State.UNKNOWN
    run = read_run(directory)
    if run.state is State.UNKNOWN:
        faults.add(ABOUT, run.problem)
    return run.state


def _settings(text: str | None, faults: Faults) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        value = parse(text)
    except ConfigError as error:
        faults.add("config.yaml", str(error))
        return None
    if not isinstance(value, dict):
        faults.add("config.yaml", "expected a mapping")
        return None
    return dict(_dotted(value))


def _dotted(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield values by dotted key; a list is one value."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _dotted(item, f"{before}{key}.")
        else:
            yield f"{before}{key}", item
