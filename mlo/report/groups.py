"""Which runs are seeds of one experiment, and what tells experiments apart."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlo.report.run import Run
from mlo.report.values import name_of, worded

_LABEL: Final = 40
_KEYS: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Runs of one program whose configurations differ in nothing but seeds.

    Attributes:
        label: A short name that no other group has; empty if there is no other.
        runs: One or more.
    """

    label: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key of the configuration that is not the same in all runs, with the value of each."""

    key: str
    values: tuple[str, ...]


def groups_of(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Return the runs in groups, in the order given; a run without configuration is alone."""
    found: dict[object, list[Run]] = {}
    for run in runs:
        found.setdefault(_identity(run), []).append(run)
    members = list(found.values())
    labels = _labels(members) if len(members) > 1 else [""]
    return tuple(
        Group(label=label, runs=tuple(group)) for label, group in zip(labels, members, strict=True)
    )


def differences(runs: Sequence[Run]) -> tuple[Difference, ...]:
    """Return the keys of the configurations that differ between any two runs.

    A run whose configuration is unknown has a dash everywhere.
    """
    known = [run.settings for run in runs if run.settings is not None]
    keys = dict.fromkeys(key for settings in known for key in settings)
    return tuple(
        Difference(key=key, values=tuple(_word(run.settings, key) for run in runs))
        for key in keys
        if len({_plain(settings, key) for settings in known}) > 1
    )


def repeated(group: Group) -> bool:
    """Return whether runs of a group have the same configuration to the letter, seeds too."""
    whole = [json.dumps(run.settings, sort_keys=True, default=str) for run in group.runs]
    return len(set(whole)) < len(whole)


def _identity(run: Run) -> object:
    if run.settings is None:
        return id(run)
    kept = {key: value for key, value in run.settings.items() if not _is_seed(key)}
    return name_of(run.about.get("program")), json.dumps(kept, sort_keys=True, default=str)


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] == "seed"


def _labels(members: Sequence[Sequence[Run]]) -> list[str]:
    """Return what tells the groups apart: a key or two where that is short, else their names."""
    firsts = [runs[0] for runs in members]
    keys = [d for d in differences(firsts) if not _is_seed(d.key)]
    candidates = [
        ", ".join(f"{d.key.rpartition('.')[2]}={d.values[k]}" for d in keys)
        for k in range(len(firsts))
    ]
    names = [
        run.name if len(runs) == 1 else f"{run.name} and {len(runs) - 1} more"
        for run, runs in zip(firsts, members, strict=True)
    ]
    if 0 < len(keys) <= _KEYS and _tells_apart(candidates):
        return candidates
    return names if _tells_apart(names) else [f"{k}: {name}" for k, name in enumerate(names, 1)]


def _tells_apart(labels: Sequence[str]) -> bool:
    return len(set(labels)) == len(labels) and max(map(len, labels)) <= _LABEL


def _plain(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], default=str) if key in settings else ""


def _word(settings: Mapping[str, Any] | None, key: str) -> str:
    return worded(settings[key]) if settings is not None and key in settings else "–"
