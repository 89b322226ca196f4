"""What is called while an engine runs: declared by name, so that a misspelt one is an error."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlo.errors import MloError
from mlo.round import Round
from mlo.sweep import Swept


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions of the user's, each called where its name says.

    An exception in one ends the run as an exception of its own would.

    Attributes:
        after_update: ``(problem, swept)`` after each update that was made; the gradient is the one
            applied.
        after_round: ``(round)`` after each round, before it is recorded or saved: what it changes
            is part of the checkpoint.
        after_checkpoint: ``(path)`` once a checkpoint is on disk; on rank 0 only.

    Raises:
        MloError: If one is not a function.

    >>> Callbacks(after_round=lambda round: print(round.number)).after_update is None
    True
    """

    after_update: Callable[[str, Swept], object] | None = None
    after_round: Callable[[Round], object] | None = None
    after_checkpoint: Callable[[Path], object] | None = None

    def __post_init__(self) -> None:
        """Check that each is a function."""
        for name in ("after_update", "after_round", "after_checkpoint"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise MloError(
                    f"callbacks: {name} must be a function or None, got {type(value).__name__}"
                )


NOTHING = Callbacks()
"""No callbacks."""
