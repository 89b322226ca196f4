"""One checkpoint in one file, in the safetensors format, which other programs can read as well.

Beside the tensors of the state it holds one with the structure of the state in JSON, and at the end
one with the CRC-32 of every byte before. Nothing in such a file is ever executed.
"""

import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mlo.atomic import written
from mlo.checkpoint.layout import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    METADATA,
    Entry,
    aligned,
    packed,
    placed,
    strict_json,
    unpacked,
)
from mlo.checkpoint.plain import byte_tensor, decode, encode
from mlo.errors import CheckpointError

FORMAT = "mlo-checkpoint"
SCHEMA = 1
"""Raised whenever an older `mlo` could not read what is written."""

STRUCTURE = "__structure__"
CHECKSUM = "__checksum__"
CHECKSUM_BYTES = 4

# Whatever the schema, the header begins like this.
_MARK = json.dumps({METADATA: {"format": FORMAT}}, separators=(",", ":")).encode()[:-2]
_FOREIGN = {
    b"\x89PNG": "a PNG image",
    b"PK\x03\x04": "a zip archive, such as torch.save writes",
    b"\x80": "a pickle",
    b"{": "another safetensors file",
}
_CHUNK = 1 << 20
_MLO = version("mlo-framework")


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A state that was read.

    Attributes:
        path: Its file.
        round: The round after which it was taken.
        score: By which the best one is kept, lower is better; None if it has none.
        state: The state.
    """

    path: Path
    round: int
    score: float | None
    state: Any


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself.

    Attributes:
        round: As of `Checkpoint`.
        score: As of `Checkpoint`.
        mlo: The version of `mlo` that wrote it.
        torch: The version of torch that it ran on.
    """

    round: int
    score: float | None
    mlo: str
    torch: str


@dataclass(frozen=True, kw_only=True)
class _Beginning:
    """What stands before the tensors: its bytes, the header, and the tensors that follow."""

    content: bytes
    header: Header
    entries: list[Entry]


def write(path: Path, state: Any, *, round: int, score: float | None = None) -> None:
    """Write a state: all of it or nothing.

    Tensors are written from where they are; one that is on a device, or not contiguous, is copied
    for itself, so that at no time more than one copy exists.

    Args:
        path: The file.
        state: What `mlo.checkpoint.plain.encode` takes.
        round: The round after which it was taken, counted from 0.
        score: By which the best one is kept, lower is better.

    Raises:
        CheckpointError: A value cannot be saved, or the file cannot be written.
    """
    try:
        metadata = {
            "format": FORMAT,
            "schema": str(SCHEMA),
            "round": _round_text(round),
            "score": _score_text(score),
            "mlo": _MLO,
            "torch": torch.__version__,
        }
        tensors = _with_structure(state)
        entries = aligned(tensors)
        with written(path) as temporary, temporary.open("xb") as stream:
            total = _put(stream, packed(metadata, entries), 0)
            for entry in entries[:-1]:
                total = _put(stream, _bytes_of(tensors[entry.name]), total)
            stream.write(total.to_bytes(CHECKSUM_BYTES, "little"))
    except CheckpointError as error:
        raise CheckpointError(f"cannot write checkpoint {str(path)!r}: {error}") from error
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoint {str(path)!r}: {_line(error)}; earlier checkpoints are "
            "untouched"
        ) from error


def read(path: Path) -> Checkpoint:
    """Return the checkpoint in a file.

    Raises:
        CheckpointError: It cannot be read, is damaged, or is no checkpoint of this schema.
    """
    with _opened(path) as stream:
        beginning = _begin(stream)
        total = zlib.crc32(beginning.content)
        tensors: dict[str, Tensor] = {}
        for entry in beginning.entries[:-1]:
            tensors[entry.name], total = _taken(stream, entry, total)
        expected = int.from_bytes(stream.read(CHECKSUM_BYTES), "little")
        if total != expected:
            raise CheckpointError(
                f"its content has the checksum {total:08x}, expected {expected:08x}: it is damaged"
            )
        structure = strict_json(tensors.pop(STRUCTURE).numpy().tobytes(), "structure")
        state = decode(structure, tensors)
    header = beginning.header
    return Checkpoint(path=path, round=header.round, score=header.score, state=state)


def read_header(path: Path) -> Header:
    """Return what a file says of itself, without reading its tensors or testing its checksum.

    Raises:
        CheckpointError: It cannot be read, is cut off, or is no checkpoint of this schema.
    """
    with _opened(path) as stream:
        return _begin(stream).header


def _with_structure(state: Any) -> dict[str, Tensor]:
    structure, tensors = encode(state)
    try:
        text = json.dumps(structure, allow_nan=False, separators=(",", ":")).encode("ascii")
    except RecursionError as error:
        raise CheckpointError("its state is nested too deeply") from error
    return {
        **tensors,
        STRUCTURE: byte_tensor(np.frombuffer(text, np.uint8)),
        CHECKSUM: torch.empty(CHECKSUM_BYTES, dtype=torch.uint8, device="cpu"),
    }


def _put(stream: BinaryIO, content: Any, total: int) -> int:
    """Write bytes and return the checksum of all that has been written."""
    view = memoryview(content)
    for begin in range(0, len(view), _CHUNK):
        part = view[begin : begin + _CHUNK]
        stream.write(part)
        total = zlib.crc32(part, total)
    return total


def _bytes_of(tensor: Tensor) -> Any:
    """Return the memory of a tensor, which is copied only where that cannot be helped."""
    whole = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    # The stride of a dimension of one element may be any, which a view as bytes does not look past.
    return whole.reshape(-1).unsqueeze(-1).view(torch.uint8).numpy().reshape(-1)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file; whatever is wrong with it becomes an error in one line that names it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe would wait for a writer.
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise CheckpointError(f"it is {kind}, expected a file")
        with path.open("rb") as stream:
            yield stream
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {str(path)!r}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {str(path)!r}: {_line(error)}") from error
    # A file from elsewhere can be wrong in more ways than can be told apart.
    except (
        ArithmeticError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise CheckpointError(
            f"checkpoint {str(path)!r}: it cannot be interpreted: {_line(error)}"
        ) from error


def _begin(stream: BinaryIO) -> _Beginning:
    size = os.fstat(stream.fileno()).st_size
    start = stream.read(LENGTH_BYTES + len(_MARK))
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    mark = start[LENGTH_BYTES:]
    if mark != _MARK:
        raise CheckpointError(_foreign(start, mark, size))
    if not len(_MARK) < length <= min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
        raise CheckpointError(
            f"it claims a header of {length} bytes and has {size} bytes in all: it is cut off or "
            "damaged"
        )
    rest = stream.read(length - len(mark))
    metadata, content = unpacked(mark + rest)
    # Before anything that another schema may say in other words.
    _check_schema(metadata)
    entries = placed(content)
    expected = LENGTH_BYTES + length + sum(entry.size for entry in entries)
    if size != expected:
        raise CheckpointError(f"it has {size} bytes, expected {expected}: it is cut off or damaged")
    _check_own_tensors(entries)
    return _Beginning(content=start + rest, header=_header(metadata), entries=entries)


def _foreign(start: bytes, mark: bytes, size: int) -> str:
    if not size:
        return "it is empty, expected a checkpoint of mlo"
    if len(mark) < len(_MARK) and _MARK.startswith(mark):
        return f"it has {size} bytes, expected a header: it is cut off, or no checkpoint of mlo"
    kinds = [
        kind for head, kind in _FOREIGN.items() if start.startswith(head) or mark.startswith(head)
    ]
    found = kinds[0] if kinds else f"a file that begins with {start[:16]!r}"
    return f"it is no checkpoint of mlo: found {found}, expected one that mlo has written"


def _check_schema(metadata: Mapping[str, str]) -> None:
    schema = metadata.get("schema", "")
    if schema != str(SCHEMA):
        raise CheckpointError(
            f"it has schema {schema[:20]!r}, written by mlo {metadata.get('mlo', '?')[:40]!r}; "
            f"mlo {version('mlo-framework')} reads schema {str(SCHEMA)!r}"
        )


def _check_own_tensors(entries: list[Entry]) -> None:
    shapes = {e.name: e.shape for e in entries if e.dtype == torch.uint8}
    is_last = bool(entries) and entries[-1].name == CHECKSUM
    if not is_last or shapes.get(CHECKSUM) != (CHECKSUM_BYTES,):
        raise CheckpointError(f"it does not end in a checksum of {CHECKSUM_BYTES} bytes")
    if len(shapes.get(STRUCTURE, ())) != 1:
        raise CheckpointError("it holds no structure of a state")


def _header(metadata: Mapping[str, str]) -> Header:
    try:
        score = metadata["score"]
        return Header(
            round=int(metadata["round"]),
            score=float(score) if score else None,
            mlo=metadata["mlo"],
            torch=metadata["torch"],
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"its header lacks something: {_line(error)}") from error


def _taken(stream: BinaryIO, entry: Entry, total: int) -> tuple[Tensor, int]:
    """Read a tensor, and return it with the checksum of all that has been read."""
    if not entry.size:
        return torch.empty(entry.shape, dtype=entry.dtype, device="cpu"), total
    memory = torch.empty(entry.size, dtype=torch.uint8, device="cpu")
    buffer: Any = memory.numpy()
    view = memoryview(buffer)
    for begin in range(0, len(view), _CHUNK):
        part = view[begin : begin + _CHUNK]
        if stream.readinto(part) != len(part):  # type: ignore[attr-defined]
            raise CheckpointError("it became shorter while it was read")
        total = zlib.crc32(part, total)
    return memory.view(entry.dtype).reshape(entry.shape), total


def _round_text(round: int) -> str:
    if isinstance(round, bool) or not isinstance(round, int) or round < 0:
        raise CheckpointError(f"round must be an integer >= 0, got {round!r}")
    return str(round)


def _score_text(score: float | None) -> str:
    if score is None:
        return ""
    if isinstance(score, bool) or not isinstance(score, Real):
        raise CheckpointError(f"score must be a number or None, got {type(score).__name__}")
    return repr(float(score))


def _line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0][:200] if text else type(error).__name__
