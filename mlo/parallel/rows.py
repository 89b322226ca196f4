"""The rows of a batch that one rank takes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mlo.batch import mapped
from mlo.errors import BatchError


def rows_of(count: int, rank: int, size: int) -> slice:
    """Return the rank's rows of `count`: contiguous, the first ranks one more where need be.

    The rows of rank r are ``numpy.array_split(range(count), size)[r]``.

    >>> [rows_of(7, rank, 3) for rank in range(3)]
    [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
    """
    least, more = divmod(count, size)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))


def sliced(batch: Any, rank: int, size: int) -> tuple[Any, float]:
    """Return the rank's rows of every tensor in `batch`, and ``size * rows here / rows in all``.

    Tensors are found as by `mlo.batch.to_device` and cut along their first dimension; 0-dim ones
    have no rows and are passed on. A list or tuple of texts, one a row, is cut too.

    Raises:
        BatchError: If there are fewer rows than ranks, tensors differ in rows, or there is none.

    >>> import torch
    >>> sliced({"x": torch.arange(3), "id": ["a", "b", "c"]}, 0, 2)
    ({'x': tensor([0, 1]), 'id': ['a', 'b']}, 1.3333333333333333)
    """
    tensors: list[Tensor] = []
    _each(batch, tensors.append, _is_tensor)
    shapes = [tuple(tensor.shape) for tensor in tensors if tensor.dim()]
    if not shapes:
        raise BatchError(
            f"a batch for {size} ranks must hold a tensor whose rows can be shared, got "
            f"{type(batch).__name__} without one"
        )
    count = shapes[0][0]
    other = next((shape for shape in shapes if shape[0] != count), None)
    if other is not None:
        raise BatchError(
            f"a batch for {size} ranks must have as many rows in every tensor, got shapes "
            f"{shapes[0]} and {other}"
        )
    if count < size:
        raise BatchError(
            f"a batch for {size} ranks must have at least {size} rows, got {count}; use larger "
            "batches (drop_last=True leaves a short last one out) or fewer ranks"
        )
    rows = rows_of(count, rank, size)

    def cut(item: Any) -> Any:
        return item if isinstance(item, Tensor) and not item.dim() else item[rows]

    def has_rows(item: Any) -> bool:
        return _is_tensor(item) or _is_texts(item, count)

    return _each(batch, cut, has_rows), size * (rows.stop - rows.start) / count


def _each(batch: Any, function: Callable[[Any], Any], is_leaf: Callable[[Any], bool]) -> Any:
    if is_leaf(batch):
        return function(batch)
    return mapped(batch, lambda item: _each(item, function, is_leaf))


def _is_tensor(item: Any) -> bool:
    return isinstance(item, Tensor)


def _is_texts(item: Any, count: int) -> bool:
    is_plain = type(item) in (list, tuple)
    return is_plain and len(item) == count and all(isinstance(text, str) for text in item)
