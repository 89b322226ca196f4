"""What a record takes down: one event after the other, as plain data that any file can hold."""

import operator
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mlo.device import synchronous
from mlo.errors import ProgramError
from mlo.histogram import counted
from mlo.jsonable import jsonable
from mlo.picture import png_of

_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_STEP: Final = re.compile(r"-\d+$")
_CHECKSUM: Final = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """Numbers by name; ``a/b`` and ``a/c`` belong in one picture."""

    scope: str
    step: int | None
    values: Mapping[str, float]

    def line(self) -> dict[str, Any]:
        """Return what a line of ``metrics.jsonl`` says of it."""
        return _head(self, "scalars") | {"values": jsonable(self.values, "scalars")}


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many values lie between each two edges; those that are not finite are counted apart."""

    scope: str
    step: int | None
    name: str
    edges: Sequence[float]
    counts: Sequence[int]
    not_finite: int

    def line(self) -> dict[str, Any]:
        """Return what a line of ``metrics.jsonl`` says of it."""
        return _head(self, "histogram") | {
            "name": self.name,
            "edges": list(self.edges),
            "counts": list(self.counts),
            "not_finite": self.not_finite,
        }


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture: the bytes of a PNG file, and its name in the run directory."""

    scope: str
    step: int | None
    name: str
    file: str
    png: bytes = field(repr=False)

    def line(self) -> dict[str, Any]:
        """Return what a line of ``metrics.jsonl`` says of it."""
        return _head(self, "image") | {"name": self.name, "file": self.file}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under named columns."""

    scope: str
    step: int | None
    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def line(self) -> dict[str, Any]:
        """Return what a line of ``metrics.jsonl`` says of it."""
        return _head(self, "table") | {
            "name": self.name,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
        }


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the user's own making."""

    scope: str
    values: Mapping[str, Any]

    def line(self) -> dict[str, Any]:
        """Return the line itself, under its scope where there is one."""
        return ({"scope": self.scope} if self.scope else {}) | dict(self.values)


Event = Scalars | Histogram | Image | Table | Line


def scalars_of(scope: str, step: int | None, values: Mapping[str, float | Tensor]) -> Scalars:
    """Return numbers as an event; those on an accelerator are fetched together.

    Raises:
        ProgramError: A value is no number, or the step no integer.

    >>> scalars_of("", 3, {"loss": torch.tensor(0.5)}).line()
    {'kind': 'scalars', 'scope': '', 'step': 3, 'values': {'loss': 0.5}}
    """
    if not isinstance(values, Mapping):
        raise ProgramError(f"scalars: expected numbers by name, got {type(values).__name__}")
    return Scalars(scope=scope, step=_step(step, "scalars"), values=numbers_of(values, "scalars"))


def histogram_of(scope: str, step: int | None, name: str, values: Tensor) -> Histogram:
    """Return how the entries of a tensor are distributed; see `mlo.histogram.counted`."""
    found = counted(values, name)
    return Histogram(
        scope=scope,
        step=_step(step, f"histogram {name!r}"),
        name=name,
        edges=found.edges,
        counts=found.counts,
        not_finite=found.not_finite,
    )


def image_of(scope: str, step: int | None, name: str, image: Tensor | Any | Path) -> Image:
    """Return a picture as an event; see `mlo.picture.png_of`."""
    step = _step(step, f"image {name!r}")
    return Image(
        scope=scope,
        step=step,
        name=name,
        file=image_file(scope, name, step),
        png=png_of(image, name),
    )


def table_of(scope: str, step: int | None, name: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return rows, each a mapping of columns to values, as an event; what a row lacks is None.

    Raises:
        ProgramError: A row is no mapping, or a value is none that JSON can hold.
    """
    rows = list(rows)
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ProgramError(
                f"table {name!r}: expected rows that map columns to values, got "
                f"{type(row).__name__} in row {index}"
            )
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return Table(
        scope=scope,
        step=_step(step, f"table {name!r}"),
        name=name,
        columns=[str(column) for column in columns],
        rows=jsonable([[row.get(column) for column in columns] for row in rows], f"table {name!r}"),
    )


def line_of(scope: str, values: Mapping[str, Any]) -> Line:
    """Return values of any form as an event.

    Raises:
        ProgramError: A value is none that JSON can hold.
    """
    return Line(scope=scope, values=jsonable(values, "metrics"))


def numbers_of(values: Mapping[str, float | Tensor], what: str) -> dict[str, float]:
    """Return numbers and tensors of one entry as numbers, waiting once for each device.

    Raises:
        ProgramError: A value is neither.
    """
    unread = {
        name: value
        for name, value in values.items()
        if isinstance(value, Tensor) and value.numel() == 1 and not synchronous(value.device)
    }
    fetched = _fetched(unread)
    return {
        str(name): fetched[name] if name in fetched else _number(value, f"{what}.{name}")
        for name, value in values.items()
    }


def image_file(scope: str, name: str, step: int | None) -> str:
    """Return the name of an image's file, which differs from that of every other image.

    Parts that are no plain names are spelt with letters, digits, dots and dashes, and told apart
    by a checksum: no name leads out of the directory.

    >>> image_file("lbg/seed-0", "groups", 12), image_file("", "../C of K", None)
    ('images/lbg/seed-0/groups-12.png', 'images/C-of-K-6aabcf35.png')
    """
    folders = [_safe(part) for part in scope.split("/")] if scope else []
    last = _safe(name, ends=_STEP if step is None else None)
    return "/".join(["images", *folders, last if step is None else f"{last}-{step}"]) + ".png"


def _safe(text: str, *, ends: re.Pattern[str] | None = None) -> str:
    """Return a text as a file name, itself if its end could be taken for nothing else."""
    if _PLAIN.fullmatch(text) and not any(p.search(text) for p in (_CHECKSUM, ends) if p):
        return text
    spelt = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:60]
    return f"{spelt or 'unnamed'}-{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def _head(event: Scalars | Histogram | Image | Table, kind: str) -> dict[str, Any]:
    return {"kind": kind, "scope": event.scope, "step": event.step}


def _step(step: object, what: str) -> int | None:
    try:
        return None if step is None else operator.index(step)  # type: ignore[arg-type]
    except TypeError as error:
        raise ProgramError(
            f"{what}: step must be an integer or None, got {_described(step)}"
        ) from error


def _fetched(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind = torch.float32 if tensor.device.type == "mps" else torch.float64
        by_device.setdefault(tensor.device, {})[name] = tensor.detach().reshape(()).to(kind)
    return {
        name: number
        for found in by_device.values()
        for name, number in zip(found, torch.stack(list(found.values())).tolist(), strict=True)
    }


def _number(value: Any, what: str) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ProgramError(
            f"{what}: expected a number or a tensor of one entry, got {_described(value)}"
        ) from error


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__
