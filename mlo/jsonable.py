"""Values as JSON can hold them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from mlo.errors import ProgramError

_BITS: Final = 4096
"""Of an integer: Python itself refuses to read more than 4,300 digits."""


@runtime_checkable
class _Array(Protocol):
    """Tensors, arrays and their scalars, named by what they share, to import neither library."""

    def tolist(self) -> Any: ...


def jsonable(value: object, name: str) -> Any:
    """Return a value as JSON holds it; numbers that are not finite become texts.

    Args:
        value: Numbers, texts, paths, tensors and arrays, or lists and mappings of them.
        name: How a message calls it.

    Raises:
        ProgramError: It is none that JSON can hold.

    >>> jsonable({"loss": float("nan"), "load": (1, 2)}, "metrics")
    {'loss': 'nan', 'load': [1, 2]}
    """
    try:
        return _plain(value, name)
    except RecursionError as error:
        raise ProgramError(f"{name}: expected a value that is not nested so deeply") from error


def _plain(value: object, name: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if value.bit_length() > _BITS:
            raise ProgramError(
                f"{name}: expected an integer of at most {_BITS} bits, got one of "
                f"{value.bit_length()}"
            )
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(item, f"{name}.{index}") for index, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, _Array):
        try:
            listed = value.tolist()
        # Sparse, sharded and quantised tensors each refuse in a way of their own.
        except Exception as error:
            raise ProgramError(
                f"{name}: {type(value).__name__} cannot be listed: {_first_line(error)}"
            ) from error
        return _plain(listed, name)
    raise ProgramError(
        f"{name}: expected a number, a text, a tensor or lists and mappings of them, "
        f"got {type(value).__name__}"
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
