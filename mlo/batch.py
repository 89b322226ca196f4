"""Batches of any structure."""

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sized
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def to_device(batch: Any, device: torch.device) -> Any:
    """Return `batch` with every tensor in it on `device`, its structure kept.

    Tensors are found in tuples, named tuples, lists, mappings of any class and dataclasses, to any
    depth; everything else is passed on as it is. Nothing is changed in place.

    >>> to_device({"x": [torch.ones(1), "text"]}, torch.device("cpu"))
    {'x': [tensor([1.]), 'text']}
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return mapped(batch, lambda item: to_device(item, device))


def mapped(batch: Any, function: Callable[[Any], Any]) -> Any:
    """Return a structure of the same kind with `function` applied to each of its items.

    >>> mapped((1, 2), lambda item: item + 1)
    (2, 3)
    """
    if isinstance(batch, tuple):
        moved = [function(item) for item in batch]
        return type(batch)(*moved) if _is_named(batch) else type(batch)(moved)
    if isinstance(batch, list):
        return type(batch)(function(item) for item in batch)
    if isinstance(batch, Mapping):
        return _mapped_mapping(batch, function)
    if is_dataclass(batch) and not isinstance(batch, type):
        clone = copy.copy(batch)
        for field in fields(batch):
            # Also a frozen dataclass, and one whose __init__ does more than assign.
            object.__setattr__(clone, field.name, function(getattr(batch, field.name)))
        return clone
    return batch


def _is_named(batch: tuple[Any, ...]) -> bool:
    return getattr(batch, "_fields", None) is not None


def _mapped_mapping(batch: Mapping[Any, Any], function: Callable[[Any], Any]) -> Mapping[Any, Any]:
    moved = {key: function(value) for key, value in batch.items()}
    if type(batch) is dict or not isinstance(batch, MutableMapping):
        return moved
    clone = copy.copy(batch)
    clone.update(moved)
    return clone


def length_of(batches: object) -> int | None:
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


def in_channels_last(batch: Any) -> Any:
    """Return `batch` with every 4-dim tensor of numbers in the memory format for images.

    >>> in_channels_last([torch.ones(2, 3, 4, 4)])[0].stride()
    (48, 1, 12, 3)
    """
    if isinstance(batch, Tensor):
        is_image = batch.dim() == 4 and batch.is_floating_point()
        return batch.contiguous(memory_format=torch.channels_last) if is_image else batch
    return mapped(batch, in_channels_last)
