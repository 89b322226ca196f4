"""When a run stops before its last round."""

import math
from typing import Any, Protocol, runtime_checkable

from mlo.errors import MloError
from mlo.measure import Measure, check_measure, value_of
from mlo.round import Round


class Stopping(Protocol):
    """``round -> bool``: whether to stop after this round.

    Any function will do. One that remembers something offers ``state_dict()`` and
    ``load_state_dict(state)`` too, so that a resumed run stops where an uninterrupted one would.
    """

    def __call__(self, round: Round, /) -> bool:
        """Return whether to stop."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A `Stopping` with a state."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` returned."""
        ...


class EarlyStopping:
    """Stop once a measure has not fallen by `min_change` for `patience` looks in a row.

    A value that is not a number is no improvement. A round in which the problem still warms up, or
    its update was skipped, is not looked at.

    Args:
        measure: What should fall: the name of a problem, whose loss it then is, or a function of
            the round such as a validation loss.
        patience: Looks without improvement after which to stop.
        every: Rounds from one look to the next. Looking at a loss waits for the device.
        min_change: How much lower than the best a value must be to count.

    Attributes:
        measure: What should fall.
        best: The lowest value so far.
        best_round: The round in which it was found; 0 before the first look.

    Raises:
        MloError: If an argument is out of range; when called, if no problem has the name, or the
            function gives no number.

    >>> import torch
    >>> stopping = EarlyStopping("model", patience=2)
    >>> losses = [3.0, 1.0, 2.0, 1.5]
    >>> [stopping(Round(number=i + 1, losses={"model": torch.tensor(loss)}, outcomes={}))
    ...  for i, loss in enumerate(losses)]
    [False, False, False, True]
    >>> stopping.best, stopping.best_round
    (1.0, 2)
    """

    def __init__(
        self,
        measure: Measure,
        *,
        patience: int,
        every: int = 1,
        min_change: float = 0.0,
    ) -> None:
        for name, value in (("patience", patience), ("every", every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise MloError(f"early stopping: {name} must be an integer >= 1, got {value!r}")
        if not isinstance(min_change, int | float) or not 0 <= min_change < math.inf:
            raise MloError(f"early stopping: min_change must be >= 0, got {min_change!r}")
        check_measure("early stopping: measure", measure)
        self.measure = measure
        self._patience = patience
        self._every = every
        self._min_change = min_change
        self._waited = 0
        self.best = math.inf
        self.best_round = 0

    def __call__(self, round: Round, /) -> bool:
        """Look at a round; return whether to stop."""
        if round.number % self._every:
            return False
        value = value_of(self.measure, round, "early stopping")
        if value is None:
            return False
        if value < self.best - self._min_change:
            self.best, self.best_round, self._waited = value, round.number, 0
        else:
            self._waited += 1
        return self._waited >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {"best": self.best, "best_round": self.best_round, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from a state that `state_dict` returned."""
        self.best = float(state["best"])
        self.best_round = int(state["best_round"])
        self._waited = int(state["waited"])
