"""A curve of any length in bounded memory."""

from array import array
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

POINTS: Final = 2000
"""Most points that a curve keeps."""

Floats: TypeAlias = NDArray[np.float64]


class Thinned:
    """A stream of points of which at most `capacity` are kept, every dip and peak among them.

    Up to `capacity` points are kept as they are. Beyond, consecutive points share a bucket that
    keeps its lowest point, its highest one and its mean; when the buckets run out, neighbours are
    merged. So the kept points hold the first, the last, the lowest and the highest of all, and the
    bucket means are means of equally many points (the last one excepted).

    Args:
        capacity: Most points kept, 16 or more.

    Attributes:
        count: Points seen.

    >>> curve = Thinned(16)
    >>> for step in range(1000):
    ...     curve.add(step, -1.0 if step == 567 else 0.0)
    >>> steps, values = curve.points()
    >>> len(steps) <= 16, values.min(), steps[values.argmin()]
    (True, np.float64(-1.0), np.float64(567.0))
    """

    _WIDTH: Final = 7
    """Numbers of a bucket: count, mean step, mean value, then the lowest and the highest point."""

    def __init__(self, capacity: int = POINTS) -> None:
        self.count = 0
        self._capacity = capacity
        self._stride = 1
        self._buckets = array("d")
        self._open: list[float] = []
        self._first = self._last = (0.0, 0.0)

    def add(self, step: float, value: float) -> None:
        """Take in a point; both numbers are finite."""
        if not self.count:
            self._first = (step, value)
        self.count += 1
        self._last = (step, value)
        bucket = self._open
        if not bucket:
            self._open = bucket = [1.0, step, value, step, value, step, value]
        else:
            share = 1.0 / (bucket[0] + 1.0)
            bucket[0] += 1.0
            # Running means: a sum of large numbers would overflow.
            bucket[1] += share * step - share * bucket[1]
            bucket[2] += share * value - share * bucket[2]
            if value < bucket[4]:
                bucket[3] = step
                bucket[4] = value
            elif value > bucket[6]:
                bucket[5] = step
                bucket[6] = value
        if bucket[0] == self._stride:
            self._buckets.extend(bucket)
            self._open = []
            while not self._fits():
                self._merge()

    def points(self) -> tuple[Floats, Floats]:
        """Return steps and values of what is kept, steps in ascending order."""
        if self.is_whole:
            return self.means()
        rows = self._rows()
        kept = np.concatenate([rows[:, 3:5], rows[:, 5:7], [self._first, self._last]])
        return _ascending(np.unique(kept, axis=0))

    def means(self) -> tuple[Floats, Floats]:
        """Return mean step and mean value of every bucket: the points themselves if all fit."""
        return _ascending(self._rows()[:, 1:3])

    @property
    def last(self) -> tuple[float, float]:
        """The newest point."""
        return self._last

    @property
    def is_whole(self) -> bool:
        """Whether no point has been dropped."""
        return self._stride == 1

    def _fits(self) -> bool:
        closed = len(self._buckets) // self._WIDTH
        if self._stride == 1:
            return closed <= self._capacity
        # Two points a bucket, the open one too, and the first and the last of all.
        return 2 * (closed + 1) + 2 <= self._capacity

    def _merge(self) -> None:
        rows = self._closed()
        # An odd one at the end is joined with the open bucket, which follows it.
        if len(rows) % 2:
            tail = self._tail()
            self._open = (_joined(rows[-1:], tail) if len(tail) else rows[-1:])[0].tolist()
            rows = rows[:-1]
        self._buckets = array("d", _joined(rows[0::2], rows[1::2]).tobytes())
        self._stride *= 2

    def _closed(self) -> Floats:
        return np.array(self._buckets, dtype=np.float64).reshape(-1, self._WIDTH)

    def _tail(self) -> Floats:
        return np.array(self._open, dtype=np.float64).reshape(-1, self._WIDTH)

    def _rows(self) -> Floats:
        return np.concatenate([self._closed(), self._tail()])


def _joined(left: Floats, right: Floats) -> Floats:
    """Return the buckets of the points of both, row by row."""
    joined = np.empty_like(left)
    joined[:, 0] = left[:, 0] + right[:, 0]
    share = (right[:, 0] / joined[:, 0])[:, None]
    joined[:, 1:3] = (1 - share) * left[:, 1:3] + share * right[:, 1:3]
    joined[:, 3:5] = np.where(left[:, 4:5] <= right[:, 4:5], left[:, 3:5], right[:, 3:5])
    joined[:, 5:7] = np.where(left[:, 6:7] >= right[:, 6:7], left[:, 5:7], right[:, 5:7])
    return joined


def _ascending(points: Floats) -> tuple[Floats, Floats]:
    ordered = points[np.argsort(points[:, 0], kind="stable")]
    return ordered[:, 0], ordered[:, 1]
