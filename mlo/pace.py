"""How often lines of progress come where no display is drawn over."""

import time
import weakref
from collections.abc import Callable
from typing import Final

from rich.console import Console

FIRST_SECONDS: Final = 10.0
SECONDS: Final = 30.0


class Pace:
    """Due ten seconds after it is made and then every half minute: short runs stay quiet.

    Args:
        clock: Tells the time in seconds.

    >>> now = iter([0.0, 9.0, 11.0, 12.0, 42.0])
    >>> pace = Pace(lambda: next(now))
    >>> [pace.is_due() for _ in range(4)]
    [False, True, False, True]
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock() + FIRST_SECONDS

    def is_due(self) -> bool:
        """Return whether it is time for a line, which is taken to be printed then."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + SECONDS
        return True


_PACES: weakref.WeakKeyDictionary[Console, Pace] = weakref.WeakKeyDictionary()


def pace_of(console: Console) -> Pace:
    """Return the pace that all who print progress to a console share, lest lines come twice."""
    return _PACES.setdefault(console, Pace())


def is_drawn_over(console: Console) -> bool:
    """Return whether a live display can be drawn on a console."""
    return console.is_terminal and not console.is_dumb_terminal
