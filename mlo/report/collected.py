"""What the lines of ``metrics.jsonl`` add up to, gathered in one pass and bounded memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlo.report.faults import Faults
from mlo.report.reading import objects_of
from mlo.report.spread import Spread
from mlo.report.thinning import POINTS, Floats, Thinned
from mlo.report.values import leaves, name_of, number_of

FILE: Final = "metrics.jsonl"
_CURVES, _SMALL_CURVES = 1000, 3000
_SMALL: Final = POINTS // 4
_HISTOGRAMS, _IMAGES, _TABLES, _RECORDS = 64, 200, 60, 40
_TIMES, _PICTURES, _ROWS, _COLUMNS, _BINS = 96, 6, 200, 60, 2000
_STEPS: Final = ("step", "round", "iteration", "epoch")
LARGEST: Final = 1e100
"""Numbers beyond count as infinite: squares and the arithmetic of axes would overflow."""

_LAST_STEP: Final = 1e15
_KINDS: Final = frozenset({"scalars", "histogram", "image", "table"})

Key = tuple[str, str]
"""Scope and name."""


@dataclass
class Curve:
    """One number over time.

    Attributes:
        points: Its finite values.
        axis: What the horizontal axis counts.
        undefined: How many values were infinite, beyond what can be drawn, or undefined.
    """

    points: Thinned
    axis: str
    undefined: int = 0

    def add(self, step: float | None, value: float) -> None:
        """Take in a value; without a step, values are counted."""
        at = float(self.points.count + self.undefined) if step is None else step
        if -LARGEST <= value <= LARGEST:
            self.points.add(at, value)
        else:
            self.undefined += 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """Counts between edges at one time."""

    step: float
    edges: Floats
    counts: Floats


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture in a file of the run directory."""

    step: float | None
    file: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """The newest of the tables of one name.

    Attributes:
        step: When it was recorded.
        columns: Names.
        rows: The first of its rows.
        num_rows: How many it has.
    """

    step: float | None
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    num_rows: int


@dataclass
class Records:
    """Lines of free form that belong to no step, by the columns that any of them has."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Take in a line, unless there are too many to show."""
        self.count += 1
        if len(self.rows) < _ROWS:
            self.rows.append(row)


@dataclass
class Collected:
    """All that a run recorded, by scope and name; what is damaged goes to `faults`."""

    faults: Faults
    curves: dict[Key, Curve] = field(default_factory=dict)
    histograms: dict[Key, Spread[Histogram]] = field(default_factory=dict)
    images: dict[Key, Spread[Image]] = field(default_factory=dict)
    tables: dict[Key, Table] = field(default_factory=dict)
    records: dict[str, Records] = field(default_factory=dict)
    _free: dict[tuple[str, str, str], Curve] = field(default_factory=dict)

    def add(self, line: int, values: dict[str, Any]) -> None:
        """Take in one line of the file."""
        kind = values.get("kind")
        if isinstance(kind, str) and kind in _KINDS:
            problem = {
                "scalars": self._scalars,
                "histogram": self._histogram,
                "image": self._image,
                "table": self._table,
            }[kind](values)
        else:
            problem = self._free_form(values, name_of(kind))
        if problem:
            self.faults.add(FILE, problem, line=line)

    def finish(self) -> None:
        """Name the curves of free-form lines: kinds that share a name stand apart by scope."""
        kinds: dict[str, set[str]] = {}
        for kind, _, name in self._free:
            kinds.setdefault(name, set()).add(kind)
        for (kind, scope, name), curve in self._free.items():
            apart = kind if len(kinds[name]) > 1 else ""
            self.curves.setdefault((_joined(apart, scope), name), curve)
        self._free.clear()

    def _scalars(self, values: dict[str, Any]) -> str | None:
        numbers = values.get("values")
        if not isinstance(numbers, Mapping):
            return "scalars without values"
        scope, step = name_of(values.get("scope")), _step(values.get("step"))
        axis = "record" if step is None else "step"
        for name, value in numbers.items():
            quantity = number_of(value)
            if quantity is None:
                return f"the scalar {name_of(name)!r} is no number"
            key = (scope, name_of(name))
            curve = self.curves.get(key)
            if curve is None:
                curve = self._new_curve(axis)
                if curve is None:
                    return "more metrics than can be shown"
                self.curves[key] = curve
            curve.add(step, quantity)
        return None

    def _new_curve(self, axis: str) -> Curve | None:
        known = len(self.curves) + len(self._free)
        if known >= _CURVES + _SMALL_CURVES:
            return None
        return Curve(Thinned(POINTS if known < _CURVES else _SMALL), axis)

    def _histogram(self, values: dict[str, Any]) -> str | None:
        edges, counts = _floats(values.get("edges")), _floats(values.get("counts"))
        if edges is None or counts is None or len(edges) != len(counts) + 1 or not len(counts):
            return "a histogram without edges and counts that fit"
        if (np.diff(edges) <= 0).any() or (counts < 0).any() or not counts.any():
            return "a histogram whose edges do not ascend, or without counts"
        spread = _entry(self.histograms, values, _HISTOGRAMS, _TIMES)
        if spread is None:
            return "more histograms than can be shown"
        step = _step(values.get("step"))
        at = float(spread.count) if step is None else step
        spread.add(Histogram(step=at, edges=edges, counts=counts))
        return None

    def _image(self, values: dict[str, Any]) -> str | None:
        file = values.get("file")
        if not isinstance(file, str) or len(file) > 1000:
            return "an image without a file"
        spread = _entry(self.images, values, _IMAGES, _PICTURES)
        if spread is None:
            return "more images than can be shown"
        spread.add(Image(step=_step(values.get("step")), file=file))
        return None

    def _table(self, values: dict[str, Any]) -> str | None:
        columns, rows = values.get("columns"), values.get("rows")
        if not isinstance(columns, list) or not isinstance(rows, list):
            return "a table without columns and rows"
        if not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
            return "a table whose rows do not fit its columns"
        key = (name_of(values.get("scope")), name_of(values.get("name")))
        if key not in self.tables and len(self.tables) >= _TABLES:
            return "more tables than can be shown"
        self.tables[key] = Table(
            step=_step(values.get("step")),
            columns=tuple(name_of(column) for column in columns[:_COLUMNS]),
            rows=tuple(tuple(row[:_COLUMNS]) for row in rows[:_ROWS]),
            num_rows=len(rows),
        )
        return None

    def _free_form(self, values: dict[str, Any], kind: str) -> str | None:
        axis = next((k for k in _STEPS if _step(values.get(k)) is not None), None)
        if axis is None:
            records = self.records.get(kind)
            if records is None:
                if len(self.records) >= _RECORDS:
                    return "more kinds of lines than can be shown"
                records = self.records[kind] = Records()
            records.add({name_of(k): v for k, v in values.items() if k != "kind"})
            return None
        scope, step = _scope(values), _step(values[axis])
        for key, item in values.items():
            if key in _STEPS or key in ("kind", "scope", "seed"):
                continue
            for name, value in leaves(item, name_of(key)):
                quantity = number_of(value)
                if quantity is None:
                    continue
                curve = self._free.get((kind, scope, name))
                if curve is None:
                    curve = self._new_curve(axis)
                    if curve is None:
                        return "more metrics than can be shown"
                    self._free[kind, scope, name] = curve
                curve.add(step, quantity)
        return None


def collect(directory: Path, faults: Faults) -> Collected:
    """Return what a run directory's ``metrics.jsonl`` holds.

    Memory is bounded whatever the length of the file: a curve keeps at most 2,000 points
    (`Thinned`), histograms and images a number of evenly spread times, tables the newest.
    """
    collected = Collected(faults)
    for line, values in objects_of(directory, FILE, faults):
        collected.add(line, values)
    collected.finish()
    return collected


def _scope(values: Mapping[str, Any]) -> str:
    """Return the scope of a free-form line: its own, its texts, and its seed at the end."""
    texts = [
        name_of(value)
        for key, value in values.items()
        if key not in ("kind", "scope") and isinstance(value, str) and number_of(value) is None
    ]
    own = values.get("scope")
    parts = [name_of(own) if isinstance(own, str) else "", *texts]
    seed = values.get("seed")
    if isinstance(seed, int) and not isinstance(seed, bool):
        parts.append(f"seed-{name_of(seed)}")
    return _joined(*parts)


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _entry(
    entries: dict[Key, Spread[Any]], values: Mapping[str, Any], most: int, times: int
) -> Spread[Any] | None:
    key = (name_of(values.get("scope")), name_of(values.get("name")))
    if key not in entries:
        if len(entries) >= most:
            return None
        entries[key] = Spread(times)
    return entries[key]


def _step(value: Any) -> float | None:
    if type(value) is not int and type(value) is not float:
        return None
    step = number_of(value)
    return step if step is not None and abs(step) <= _LAST_STEP else None


def _floats(value: Any) -> Floats | None:
    if not isinstance(value, list) or len(value) > _BINS + 1:
        return None
    numbers = [number_of(item) for item in value]
    if any(item is None or not abs(item) <= LARGEST for item in numbers):
        return None
    return np.array(numbers, dtype=np.float64)
