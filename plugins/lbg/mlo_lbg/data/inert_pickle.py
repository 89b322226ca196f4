"""Pickled arrays of bytes, read without running anything that the file asks for."""

import io
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlo_lbg.data.dataset import DataError


class _Inert:
    """Stands for what a pickle would build: remembers what it is told and does nothing.

    Attributes:
        arguments: What it was called with.
        state: What it was to be restored to.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Inert):
    """Stands for a numpy array."""


class _Type(_Inert):
    """Stands for the type of a numpy array."""


# All that a pickled array refers to, under the module names of numpy 1 and 2.
STAND_INS: dict[tuple[str, str], type[_Inert]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Inert,
    ("numpy", "dtype"): _Type,
}


# The implementation in Python, as the one in C allocates whatever size a broken file states.
class _Reader(pickle._Unpickler):
    """Refuses every global but the stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return STAND_INS[module, name]


def _plain(value: Any, field: str) -> Any:
    if not isinstance(value, _Array):
        return value
    match value.state:
        case (
            _,
            (int() as rows, int() as columns),
            _Type(arguments=("u1" | b"u1", *_)),
            by_column,
            bytes() as content,
        ) if min(rows, columns) > 0 and rows * columns == len(content):
            flat = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
            if by_column:
                return flat.reshape(columns, rows).t().contiguous()
            return flat.reshape(rows, columns)
    raise pickle.UnpicklingError(f"{field} is not a matrix of bytes")


def read_pickle(content: bytes, *, source: str) -> dict[str, Any]:
    """The dictionary that was pickled, with its matrices of bytes as tensors.

    Only plain values and such matrices can occur; the stand-ins that take the place of numpy's
    functions do nothing, so that no file can make this call or import anything.

    Args:
        content: Bytes of the file.
        source: Its name, for errors.

    Returns:
        Values under their keys as text; a matrix is a `(rows, columns)` uint8 tensor.

    Raises:
        DataError: If it is not a pickle, refers to anything else, or is no dictionary.

    >>> read_pickle(pickle.dumps({"labels": [1, 2]}), source="a")
    {'labels': [1, 2]}
    >>> read_pickle(pickle.dumps(print), source="a")
    Traceback (most recent call last):
    ...
    mlo_lbg.data.dataset.DataError: 'a': expected a pickled dictionary (it refers to builtins.print)
    """
    try:
        loaded = _Reader(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(loaded, dict):
            raise pickle.UnpicklingError(f"it is a {type(loaded).__name__}")
        named = {key.decode() if isinstance(key, bytes) else key: loaded[key] for key in loaded}
        return {str(key): _plain(value, str(key)) for key, value in named.items()}
    except Exception as error:  # a broken pickle can end in an exception of any kind
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise DataError(f"{source!r}: expected a pickled dictionary ({reason})") from error


def matrix(values: dict[str, Any], field: str, columns: int, *, source: str) -> Tensor:
    """The entry `field` as a `(rows, columns)` uint8 tensor.

    Raises:
        DataError: If it is something else.
    """
    found = values.get(field)
    if not isinstance(found, Tensor) or found.shape[1] != columns:
        raise DataError(f"{source!r}: {field}: expected a uint8 array of {columns} columns")
    return found


def labels(values: dict[str, Any], field: str, count: int, rows: int, *, source: str) -> Tensor:
    """The entry `field` as `(rows,)` int64 in `0 .. count - 1`.

    Raises:
        DataError: If it is something else.
    """
    found = values.get(field)
    if (
        not isinstance(found, list)
        or len(found) != rows
        or not all(type(code) is int and 0 <= code < count for code in found)
    ):
        raise DataError(f"{source!r}: {field}: expected {rows} numbers in 0..{count - 1}")
    return torch.tensor(found, dtype=torch.int64)


def texts(values: dict[str, Any], field: str, count: int, *, source: str) -> tuple[str, ...]:
    """The entry `field` as `count` names.

    Raises:
        DataError: If it is something else.
    """
    found = values.get(field)
    if not isinstance(found, list) or len(found) != count:
        raise DataError(f"{source!r}: {field}: expected {count} names")
    return tuple(
        name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in found
    )
