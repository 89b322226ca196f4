"""How an operation between ranks ends when a rank has died or failed."""

import os
from collections.abc import Callable
from typing import Protocol, TypeVar

from mlo.errors import MloError

T = TypeVar("T")


class ParallelError(MloError):
    """Ranks cannot go on together.

    Attributes:
        ranks: Those that have died or failed; empty if none is known to have.
        speaks: Whether this rank is the one that should tell the user: the lowest one left.
    """

    def __init__(self, message: str, *, ranks: tuple[int, ...] = (), speaks: bool = True) -> None:
        super().__init__(message)
        self.ranks = ranks
        self.speaks = speaks


class Guard(Protocol):
    """Runs operations between ranks, and makes of their failure an error that says why.

    Attributes:
        where: Ends the message of such an error.
    """

    where: str

    def run(self, operation: Callable[[], T], /) -> T:
        """Return what the operation returns.

        Raises:
            ParallelError: If it fails, or would because a rank is known to have gone.
        """
        ...


class Unwatched:
    """Runs operations of ranks of which nothing is known but that an operation failed.

    Attributes:
        where: Ends the message of an error.

    >>> def fail():
    ...     raise RuntimeError("Connection closed by peer")
    >>> Unwatched().run(fail)
    Traceback (most recent call last):
        ...
    mlo.parallel.failure.ParallelError: an operation between ranks failed: Connection closed by peer
    """

    def __init__(self) -> None:
        self.where = ""

    def run(self, operation: Callable[[], T], /) -> T:
        """Return what the operation returns.

        Raises:
            ParallelError: If it fails.
        """
        try:
            return operation()
        # Backends have no class of their own for a peer that has gone.
        except RuntimeError as error:
            raise ParallelError(
                located(f"an operation between ranks failed: {first_line(error)}", self.where)
            ) from error


def located(message: str, where: str) -> str:
    """Return a message with where it happened at its end.

    >>> located("rank 2 died", "in round 37")
    'rank 2 died in round 37'
    """
    return f"{message} {where}".rstrip()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, the name of its class where there is none.

    >>> first_line(KeyError()), first_line(ValueError(" no " + chr(10) + " yes"))
    ('KeyError', 'no')
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def speaks(error: BaseException) -> bool:
    """Return whether this process should tell the user of an error that ends its run.

    One rank should: the lowest that is left where others have gone, else rank 0, as an error of
    another rank alone is told by those that notice it.

    >>> speaks(ParallelError("rank 0 died", ranks=(0,), speaks=False))
    False
    """
    if isinstance(error, ParallelError):
        return error.speaks
    return os.environ.get("RANK", "0") == "0"
