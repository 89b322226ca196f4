"""Files of a run directory, read within bounds: run directories come from anywhere."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mlo.report.faults import Faults

_LINE: Final = 4 << 20
_FILE: Final = 16 << 20


def inside(directory: Path, name: str) -> Path | None:
    """Return the regular file `name` of a directory, or None if it is none or lies elsewhere.

    Links are followed, and their targets must lie in the directory too: a page is handed on, and
    must not hold a file that its reader happens to be able to read.
    """
    try:
        root = directory.resolve()
        path = (root / name).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def text_of(directory: Path, name: str, faults: Faults, *, limit: int = _FILE) -> str | None:
    """Return a text file of a directory, or None, with the reason among `faults`."""
    content = bytes_of(directory, name, faults, limit=limit)
    if content is None:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        faults.add(name, "not UTF-8 text")
        return None


def bytes_of(directory: Path, name: str, faults: Faults, *, limit: int) -> bytes | None:
    """Return a file of a directory, or None, with the reason among `faults`."""
    path = inside(directory, name)
    if path is None:
        faults.add(name, "missing")
        return None
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        faults.add(name, f"cannot be read: {error.strerror}")
        return None
    if len(content) > limit:
        faults.add(name, f"larger than {limit >> 20} MiB")
        return None
    return content


def json_of(text: str | bytes) -> Any:
    """Return the JSON value of a text.

    Raises:
        ValueError: It is no JSON, or nested beyond what can be read.
    """
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def mapping_of(directory: Path, name: str, faults: Faults) -> dict[str, Any]:
    """Return a JSON file that holds an object; empty, with the reason noted, if it does not."""
    text = text_of(directory, name, faults)
    if text is None:
        return {}
    try:
        value = json_of(text)
    except ValueError:
        faults.add(name, "not JSON")
        return {}
    if not isinstance(value, dict):
        faults.add(name, "expected a JSON object")
        return {}
    return value


def objects_of(directory: Path, name: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of each line of a file of JSON objects; others are noted."""
    path = inside(directory, name)
    if path is None:
        faults.add(name, "missing")
        return
    try:
        with path.open("rb") as stream:
            count = 0
            while line := stream.readline(_LINE):
                count += 1
                if len(line) == _LINE and not line.endswith(b"\n"):
                    _skip_line(stream.readline)
                    faults.add(name, f"a line longer than {_LINE >> 20} MiB", line=count)
                    continue
                try:
                    value = json_of(line)
                except ValueError:
                    if line.endswith(b"\n"):
                        faults.add(name, "not JSON", line=count)
                    else:
                        faults.add(name, "the last line is not complete", line=count)
                    continue
                if isinstance(value, dict):
                    yield count, value
                elif line.strip():
                    faults.add(name, "expected a JSON object", line=count)
    except OSError as error:
        faults.add(name, f"cannot be read: {error.strerror}")


def _skip_line(readline: Any) -> None:
    while (part := readline(_LINE)) and not part.endswith(b"\n"):
        pass
