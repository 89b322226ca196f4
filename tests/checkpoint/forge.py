"""Checkpoint files made by hand: any header and any structure, under a checksum that fits."""

import json
import zlib
from typing import Any

METADATA = "__metadata__"
STRUCTURE = "__structure__"
CHECKSUM = "__checksum__"


def taken_apart(content: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the header of a file, and the bytes of each of its tensors in their order."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    places = {name: entry["data_offsets"] for name, entry in header.items() if name != METADATA}
    return header, {name: data[begin:end] for name, (begin, end) in places.items()}


def sealed(header: str, data: bytes) -> bytes:
    """Return a file with this header, these bytes and a checksum that fits them."""
    text = header.encode("utf-8", "surrogatepass")
    content = len(text).to_bytes(8, "little") + text + data
    return content + zlib.crc32(content).to_bytes(4, "little")


def resealed(header: dict[str, Any], tensors: dict[str, bytes]) -> bytes:
    """Return a file with this header, as it is, and the bytes of these tensors."""
    data = b"".join(part for name, part in tensors.items() if name != CHECKSUM)
    return sealed(json.dumps(header, separators=(",", ":")), data)


def with_metadata(content: bytes, **changes: Any) -> bytes:
    """Return a file with other metadata; None takes an entry out."""
    header, tensors = taken_apart(content)
    for key, value in changes.items():
        if value is None:
            header[METADATA].pop(key, None)
        else:
            header[METADATA][key] = value
    return resealed(header, tensors)


def with_structure(content: bytes, text: str) -> bytes:
    """Return a file whose structure is this text."""
    header, tensors = taken_apart(content)
    tensors[STRUCTURE] = text.encode("utf-8", "surrogatepass")
    begin = 0
    for name, part in tensors.items():
        header[name]["data_offsets"] = [begin, begin + len(part)]
        if name == STRUCTURE:
            header[name]["shape"] = [len(part)]
        begin += len(part)
    return resealed(header, tensors)
