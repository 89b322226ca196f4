"""Evenly spread items of a stream of unknown length."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Spread(Generic[T]):
    """A stream of which at most `capacity` items are kept, evenly spread, and the newest one.

    Attributes:
        count: Items seen.

    >>> spread = Spread(4)
    >>> for item in range(11):
    ...     spread.add(item)
    >>> spread.items()
    [0, 4, 8, 10]
    """

    def __init__(self, capacity: int) -> None:
        self.count = 0
        self._capacity = capacity
        self._stride = 1
        self._kept: list[T] = []
        self._newest: list[T] = []

    def add(self, item: T) -> None:
        """Take in an item."""
        self._newest = [item]
        if self.count % self._stride == 0:
            self._kept.append(item)
            # One place is left for the newest item.
            if len(self._kept) >= self._capacity:
                self._kept = self._kept[::2]
                self._stride *= 2
        self.count += 1

    def items(self) -> list[T]:
        """Return what is kept, oldest first."""
        is_kept = bool(self._kept) and (self.count - 1) % self._stride == 0
        return self._kept + ([] if is_kept else self._newest)
