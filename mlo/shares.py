"""A loader as seen by one of the ranks that share its batches."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeGuard

import torch
from torch.utils.data import DataLoader, IterableDataset

from mlo.errors import BatchError
from mlo.ranks import Ranks

Share = tuple[Any, float]
"""Rows of a batch, and what multiplies their loss."""


class Whole:
    """Every batch as it is.

    >>> list(Whole(["ab", "cd"]))
    [('ab', 1.0), ('cd', 1.0)]
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Share]:
        return map(_whole, iter(self.loader))


class Cut:
    """This rank's rows of every batch, all of which is loaded."""

    def __init__(self, loader: Iterable[Any], ranks: Ranks) -> None:
        self.loader = loader
        self._ranks = ranks

    def __iter__(self) -> Iterator[Share]:
        return map(self._ranks.slice, iter(self.loader))


class Rows:
    """This rank's rows of every batch, and no others are loaded; all of them if there are no ranks.

    Args:
        loader: Loads what lists of row numbers name, as `is_by_rows` says.
        ranks: The processes that share each batch; None if there is but this one.

    Attributes:
        loader: Loads the same rows as the given one, less those of the other ranks.

    >>> rows = Rows(DataLoader([0, 1, 2, 3], batch_size=2), None)
    >>> batches = iter(rows)
    >>> rows.pass_over(1)
    1
    >>> next(batches)
    (tensor([2, 3]), 1.0)
    """

    def __init__(self, loader: DataLoader[Any], ranks: Ranks | None) -> None:
        self._numbers = _RowNumbers(loader.batch_sampler or (), ranks)
        self.loader = _with_batch_sampler(loader, self._numbers)

    def __iter__(self) -> Iterator[Share]:
        return _Weighed(iter(self.loader), self._numbers.weights)

    def pass_over(self, count: int) -> int:
        """Leave out the next batches, without loading them; return how many there were.

        Row numbers that have been handed to a worker process are not left out.
        """
        return self._numbers.pass_over(count)


def shares(loader: Iterable[Any], ranks: Ranks | None) -> Whole | Cut | Rows:
    """Return what this rank sees of a loader, loading as little as can be."""
    if ranks is None:
        return Whole(loader)
    return Rows(loader, ranks) if is_by_rows(loader) else Cut(loader, ranks)


def is_by_rows(loader: object) -> TypeGuard[DataLoader[Any]]:
    """Return whether batches are loaded by lists of row numbers, which others can stand in for.

    >>> [is_by_rows(DataLoader([1, 2], batch_size=size)) for size in (2, None)]
    [True, False]
    """
    return (
        # A subclass may do anything.
        type(loader) is DataLoader
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
    )


def _whole(batch: Any) -> Share:
    return batch, 1.0


class _RowNumbers:
    """Lists of row numbers, cut to those of this rank.

    Attributes:
        weights: Of the batches that are on their way, or why one is none.
    """

    def __init__(self, lists: Iterable[Any], ranks: Ranks | None) -> None:
        self.weights: deque[float | BatchError] = deque()
        self._lists = lists
        self._ranks = ranks
        self._left: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        self.weights.clear()
        # At once, as a DataLoader does: a sampler may draw its order here.
        self._left = iter(self._lists)
        return self._cut()

    def __len__(self) -> int:
        return len(self._lists)  # type: ignore[arg-type]

    def pass_over(self, count: int) -> int:
        return sum(1 for _ in islice(self._left, count))

    def _cut(self) -> Iterator[Any]:
        for numbers in self._left:
            rows, weight = self._own(numbers)
            self.weights.append(weight)
            yield rows

    def _own(self, numbers: Any) -> tuple[Any, float | BatchError]:
        if self._ranks is None:
            return numbers, 1.0
        try:
            own, weight = self._ranks.slice(torch.arange(len(numbers)))
        except BatchError as error:
            # Workers are given row numbers ahead of time; its turn has not come.
            return numbers, error
        return [numbers[place] for place in own.tolist()], weight


class _Weighed:
    """Batches together with their weights, in the same order."""

    def __init__(self, batches: Iterator[Any], weights: deque[float | BatchError]) -> None:
        self._batches = batches
        self._weights = weights

    def __iter__(self) -> Iterator[Share]:
        return self

    def __next__(self) -> Share:
        try:
            batch = next(self._batches)
        finally:
            # Also of a batch that could not be loaded.
            weight = self._weights.popleft() if self._weights else 1.0
        if isinstance(weight, BatchError):
            try:
                raise weight
            finally:
                # An error that its own frame refers to would keep worker processes alive.
                del weight
        return batch, weight


def _with_batch_sampler(loader: DataLoader[Any], sampler: _RowNumbers) -> DataLoader[Any]:
    return DataLoader(
        loader.dataset,
        batch_sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        in_order=loader.in_order,
    )
