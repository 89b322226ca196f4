"""The layout of a safetensors file: a length, a header in JSON, and the bytes of the tensors.

The header names each tensor with its dtype, its shape and where its bytes lie behind the header;
they lie there without gaps. See https://github.com/huggingface/safetensors for the format. It is
written here by hand so that one tensor at a time comes from a device, and read by hand so that
nothing is allocated that the file does not hold.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlo.errors import CheckpointError

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The dtypes that the format has a name for."""

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The bound of the format itself."""

METADATA = "__metadata__"

_DTYPES = {code: dtype for dtype, code in CODES.items()}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file.

    Attributes:
        name: Its name.
        dtype: Its dtype.
        shape: Its shape.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def aligned(tensors: Mapping[str, Tensor]) -> list[Entry]:
    """Return the entries in an order in which each begins at a multiple of its item size.

    >>> found = aligned({"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(2)})
    >>> [(entry.name, entry.size) for entry in found]
    [('b', 8), ('a', 3)]
    """
    entries = [Entry(name=n, dtype=t.dtype, shape=tuple(t.shape)) for n, t in tensors.items()]
    return sorted(entries, key=lambda entry: -entry.dtype.itemsize)


def packed(metadata: Mapping[str, str], entries: Iterable[Entry]) -> bytes:
    """Return the beginning of a file: the length of the header, and the header.

    Raises:
        CheckpointError: The header is longer than the format allows.

    >>> packed({}, [Entry(name="a", dtype=torch.bool, shape=(3,))])[8:].decode().rstrip()
    '{"__metadata__":{},"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}'
    """
    content: dict[str, Any] = {METADATA: dict(metadata)}
    begin = 0
    for entry in entries:
        content[entry.name] = {
            "dtype": CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [begin, begin + entry.size],
        }
        begin += entry.size
    header = json.dumps(content, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % LENGTH_BYTES)
    if len(header) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{len(content) - 1} tensors take a header of {len(header)} bytes, expected at most "
            f"{MAX_HEADER_BYTES}"
        )
    return struct.pack("<Q", len(header)) + header


def unpacked(header: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the metadata of a header, and what it says of each tensor.

    Raises:
        CheckpointError: It is none of the format.

    >>> unpacked(packed({"a": "b"}, [])[8:])
    ({'a': 'b'}, {})
    """
    content = strict_json(header, "header")
    if not isinstance(content, dict):
        raise CheckpointError("its header is no JSON object")
    metadata = content.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"its header has a {METADATA} with something else than texts")
    return metadata, content


def placed(content: Mapping[str, Any]) -> list[Entry]:
    """Return the entries of a header in the order of their bytes.

    Raises:
        CheckpointError: One is none of the format, or they overlap or leave gaps.

    >>> [entry] = placed({"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}})
    >>> entry.name, entry.shape
    ('a', (3,))
    """
    found = [_placed(name, value) for name, value in content.items()]
    # Tensors without bytes begin where the next one does.
    found.sort(key=lambda each: each[:2])
    end = 0
    for begin, following, entry in found:
        if begin != end:
            raise CheckpointError(
                f"its header puts tensor {_shown(entry.name)} at byte {begin}, expected {end}"
            )
        end = following
    return [entry for _, _, entry in found]


def strict_json(text: bytes, what: str) -> Any:
    """Return what a text in JSON holds.

    Raises:
        CheckpointError: It is no JSON, names a key twice in an object, or is nested too deeply.

    >>> strict_json(b"[1, null]", "header")
    [1, None]
    """
    try:
        return json.loads(text.decode(), object_pairs_hook=_without_duplicates)
    except CheckpointError as error:
        raise CheckpointError(f"its {what} {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"its {what} is nested too deeply") from error
    except ValueError as error:
        reason = str(error).splitlines()[0][:80]
        raise CheckpointError(f"its {what} is no JSON: {reason}") from error


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CheckpointError("has an object with a key twice")
    return found


def _placed(name: str, value: Any) -> tuple[int, int, Entry]:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"its header describes tensor {_shown(name)} by something else than dtype, shape and "
            "data_offsets"
        )
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    dtype = _DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise CheckpointError(
            f"its header gives tensor {_shown(name)} the unknown dtype {_shown(code)}"
        )
    if not (_are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise CheckpointError(
            f"its header gives tensor {_shown(name)} a shape or offsets that are no lists of counts"
        )
    entry = Entry(name=name, dtype=dtype, shape=tuple(shape))
    begin, end = offsets
    if end - begin != entry.size:
        raise CheckpointError(
            f"its header gives tensor {_shown(name)} {end - begin} bytes, expected {entry.size} "
            "by its shape"
        )
    return begin, end, entry


def _are_counts(value: Any) -> bool:
    # A larger size is none that torch could hold, even of a tensor without elements.
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**62 for v in value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
