"""Batches: drawn from a loader without end, and moved to a device whatever their shape."""

import copy
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sized
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mlo.errors import BatchError


def to_device(batch: Any, device: torch.device) -> Any:
    """Return `batch` with every tensor in it on `device`, its structure kept.

    Tensors are found in tuples, named tuples, lists, mappings of any class and dataclasses, to any
    depth; everything else is passed on as it is. Nothing is changed in place.

    >>> to_device({"x": [torch.ones(1), "text"]}, torch.device("cpu"))
    {'x': [tensor([1.]), 'text']}
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple):
        moved = [to_device(item, device) for item in batch]
        return type(batch)(*moved) if _is_named(batch) else type(batch)(moved)
    if isinstance(batch, list):
        return type(batch)(to_device(item, device) for item in batch)
    if isinstance(batch, Mapping):
        return _moved_mapping(batch, device)
    if is_dataclass(batch) and not isinstance(batch, type):
        clone = copy.copy(batch)
        for field in fields(batch):
            # Also a frozen dataclass, and one whose __init__ does more than assign.
            object.__setattr__(clone, field.name, to_device(getattr(batch, field.name), device))
        return clone
    return batch


def _is_named(batch: tuple[Any, ...]) -> bool:
    return getattr(batch, "_fields", None) is not None


def _moved_mapping(batch: Mapping[Any, Any], device: torch.device) -> Mapping[Any, Any]:
    moved = {key: to_device(value, device) for key, value in batch.items()}
    if type(batch) is dict or not isinstance(batch, MutableMapping):
        return moved
    clone = copy.copy(batch)
    clone.update(moved)
    return clone


def length_of(batches: Iterable[Any]) -> int | None:
    """Return how many batches there are, or None if that is not known.

    >>> length_of([1, 2]), length_of(iter([1, 2]))
    (2, None)
    """
    if not isinstance(batches, Sized):
        return None
    try:
        return len(batches)
    # A DataLoader has __len__ even where its data set has none.
    except TypeError:
        return None


class Feed:
    """Draws batches for one problem for ever: an exhausted loader is iterated again.

    Args:
        problem: Name of the problem, for error messages.
        batches: The loader.
        device: Where the batches go.
    """

    def __init__(self, problem: str, batches: Iterable[Any], device: torch.device) -> None:
        self._problem = problem
        self._batches = batches
        self._device = device
        self._iterator: Iterator[Any] | None = None
        self.epochs = 0

    def check(self) -> None:
        """Refuse an empty loader whose length does not tell; its first batch is kept for `draw`.

        Raises:
            BatchError: If it is empty.
        """
        if length_of(self._batches) is not None:
            return
        iterator = iter(self._batches)
        for batch in iterator:
            self._iterator = chain([batch], iterator)
            return
        raise self._empty()

    def draw(self) -> Any:
        """Return the next batch on the device.

        Raises:
            BatchError: If the loader is empty, or is a one-shot iterator that has ended.
        """
        if self._iterator is None:
            self._iterator = iter(self._batches)
        for batch in self._iterator:
            return to_device(batch, self._device)
        self.epochs += 1
        again = self._iterator = iter(self._batches)
        for batch in again:
            return to_device(batch, self._device)
        if again is self._batches:
            raise BatchError(
                f"problem {self._problem!r}: batches is a one-shot iterator that has ended; give "
                "an iterable that can be iterated again, such as a DataLoader or a list"
            )
        raise self._empty()

    def _empty(self) -> BatchError:
        return BatchError(
            f"problem {self._problem!r}: batches is empty, expected at least one batch"
        )
