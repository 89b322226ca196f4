"""A warning, once each, for solved problems that answer badly."""

import warnings

from mlo.outcome import Outcome


class ResponseWarning(UserWarning):
    """A solved problem answered its cotangent badly; training goes on."""


class ResponseWarnings:
    """Warns of every failed outcome, of each kind once in the life of an engine."""

    def __init__(self) -> None:
        self._given: set[tuple[str, str, int]] = set()

    def warn(self, round: int, problem: str, outcomes: dict[str, Outcome]) -> None:
        """Warn of what has not been warned of before."""
        for lower, outcome in outcomes.items():
            key = (problem, lower, int(outcome.status))
            if outcome.failed and key not in self._given:
                self._given.add(key)
                warnings.warn(
                    f"round {round}, gradient of {problem!r} through {lower!r}: {outcome.message}",
                    ResponseWarning,
                    stacklevel=2,
                )
