"""Errors that users can act on: every one is a ``ValueError`` with a one-line message."""

import difflib
from collections.abc import Iterable


class MloError(ValueError):
    """Base of every error that `mlo` raises for a mistake outside `mlo`."""


class ProblemError(MloError):
    """A `Problem` is declared wrongly."""


class GraphError(MloError):
    """Problems do not fit together."""


class BatchError(MloError):
    """A batch or a loader is missing, empty or of the wrong form."""


class ConfigError(MloError):
    """A configuration does not fit its schema."""


class ProgramError(MloError):
    """A program cannot be found or loaded."""


class ResponseError(MloError):
    """A solved problem could not answer a cotangent."""


class CheckpointError(MloError):
    """A checkpoint cannot be written, read or fitted to the engine."""


class RunError(MloError):
    """A run directory cannot be used, or its run cannot go on."""


class NonFiniteError(MloError):
    """A loss or a gradient is infinite or not a number; no weight has been changed by it.

    Attributes:
        problem: The problem whose update was refused.
        round: The round in which it happened, counted from 1.
    """

    def __init__(self, message: str, *, problem: str, round: int) -> None:
        super().__init__(message)
        self.problem = problem
        self.round = round


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the valid name closest to `name`, or ``""``.

    >>> nearest("modle", ["model", "weights"])
    " (did you mean 'model'?)"
    >>> nearest("zzz", ["model", "weights"])
    ''
    """
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
