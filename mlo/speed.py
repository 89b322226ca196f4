"""How fast rounds go by, of late."""

from collections import deque
from typing import Final

_SAMPLES: Final = 60
_SECONDS: Final = 1.0


class Speed:
    """Rounds a second over the last minute, or over the last 60 rounds where they take longer.

    A mean over the whole run would be held down for hours by a slow first round, in which graphs
    are compiled and workers started.

    Args:
        now: The time in seconds.
        number: Rounds done by then.

    >>> speed = Speed(0.0, 100)
    >>> speed.add(10.0, 120)
    >>> speed.per_second, speed.left(140)
    (2.0, 10.0)
    """

    def __init__(self, now: float, number: int) -> None:
        self._samples = deque([(now, number)], maxlen=_SAMPLES)
        self._last = (now, number)

    def add(self, now: float, number: int) -> None:
        """Take in that so many rounds are done."""
        self._last = (now, number)
        if now - self._samples[-1][0] >= _SECONDS:
            self._samples.append(self._last)

    @property
    def per_second(self) -> float:
        """Rounds a second; 0 before the first."""
        (start, before), (now, number) = self._samples[0], self._last
        return (number - before) / (now - start) if now > start else 0.0

    def left(self, total: int) -> float | None:
        """Return the seconds until so many rounds are done, None if that cannot be told."""
        rate = self.per_second
        return (total - self._last[1]) / rate if rate > 0 else None
