"""A batch at a fixed address, into which every further batch is copied."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from mlo.errors import BatchError

_TAKEN = (Tensor, str, bytes, bool, int, float, complex, type(None))


class StaticBatch:
    """Keeps structure, shapes and addresses of a problem's first batch; its values are replaced.

    Args:
        problem: Name of the problem, for error messages.
        batch: The first batch: tensors, strings and numbers in tuples, lists, mappings and
            dataclasses, to any depth. It is copied.

    Attributes:
        batch: What a captured round reads.

    Raises:
        BatchError: If it holds anything else.

    >>> import torch
    >>> static = StaticBatch("model", (torch.zeros(2), "train"))
    >>> address = static.batch[0].data_ptr()
    >>> static.fill((torch.ones(2), "train"))
    >>> static.batch, static.batch[0].data_ptr() == address
    ((tensor([1., 1.]), 'train'), True)
    """

    def __init__(self, problem: str, batch: Any) -> None:
        self._problem = problem
        found = dict(_leaves(batch, "batch"))
        for path, leaf in found.items():
            if not isinstance(leaf, _TAKEN):
                raise BatchError(
                    f"problem {problem!r}: {path} is a {type(leaf).__name__}, which a captured "
                    "round cannot take new values of; make it a tensor"
                )
        # A loader may hand out broadcast tensors, into which nothing can be copied.
        copies = {id(t): t.detach().clone() for t in found.values() if isinstance(t, Tensor)}
        self.batch: Any = copy.deepcopy(batch, dict(copies))
        self._static = dict(_leaves(self.batch, "batch"))

    def fill(self, batch: Any) -> None:
        """Copy another batch into this one, without waiting for the device.

        Raises:
            BatchError: If structure, shapes or types differ, or what is no tensor has changed.
        """
        given = dict(_leaves(batch, "batch"))
        if given.keys() != self._static.keys():
            raise self._refused("batch", f"entries {list(given)}", f"{list(self._static)}")
        for path, static in self._static.items():
            leaf = given[path]
            if _kind(leaf) != _kind(static):
                raise self._refused(path, _shown(leaf), _shown(static))
            if isinstance(static, Tensor):
                static.copy_(leaf, non_blocking=True)

    def _refused(self, what: str, received: str, expected: str) -> BatchError:
        return BatchError(
            f"problem {self._problem!r}: {what} must be the same in every round that is replayed, "
            f"expected {expected}, got {received}; with a DataLoader drop_last=True keeps shapes"
        )


def _leaves(batch: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield what `mlo.batch.to_device` would move or pass on, by where it is."""
    if isinstance(batch, tuple | list):
        for position, item in enumerate(batch):
            yield from _leaves(item, f"{path}[{position}]")
    elif isinstance(batch, Mapping):
        for key, item in batch.items():
            yield from _leaves(item, f"{path}[{key!r}]")
    elif is_dataclass(batch) and not isinstance(batch, type):
        for field in fields(batch):
            yield from _leaves(getattr(batch, field.name), f"{path}.{field.name}")
    else:
        yield path, batch


def _kind(leaf: Any) -> tuple[Any, ...]:
    """Return what must not change of a leaf: all of it, unless it is a tensor."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device
    return type(leaf), leaf


def _shown(leaf: Any) -> str:
    if isinstance(leaf, Tensor):
        return f"shape {tuple(leaf.shape)} ({leaf.dtype})"
    return repr(leaf)
