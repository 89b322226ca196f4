"""One number of a round, by which rounds are compared."""

import math
from collections.abc import Callable, Collection

from mlo.errors import MloError, nearest
from mlo.round import Round

Measure = str | Callable[[Round], float]
"""The name of a problem, for its loss, or a function of the round; lower is better."""


def check_measure(what: str, measure: Measure) -> None:
    """Refuse what cannot be a measure.

    Raises:
        MloError: If it is neither a name nor a function.
    """
    if not isinstance(measure, str) and not callable(measure):
        raise MloError(
            f"{what} must be the name of a problem or a function of a round, got "
            f"{type(measure).__name__}"
        )


def check_named(what: str, measure: object, problems: Collection[str]) -> None:
    """Refuse the name of a problem that there is not.

    Raises:
        MloError: If there is none.
    """
    if isinstance(measure, str) and measure not in problems:
        raise MloError(
            f"{what}: there is no problem {measure!r}, expected one of {tuple(problems)}"
            f"{nearest(measure, problems)}"
        )


def value_of(measure: Measure, round: Round, what: str) -> float | None:
    """Return the number, or None where the problem still warms up or its update was skipped.

    Reading a loss waits for its device.

    Raises:
        MloError: If no problem of that name has made an update, or the function gives no number.

    >>> import torch
    >>> value_of("model", Round(number=1, losses={"model": torch.tensor(2.0)}, outcomes={}), "x")
    2.0
    """
    if not isinstance(measure, str):
        value = measure(round)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise MloError(
                f"{what}: the function of a round must give a number, got {type(value).__name__}"
            ) from error
    if measure in round.warming:
        return None
    if measure not in round.losses:
        raise MloError(
            f"{what}: no problem {measure!r} has made an update, expected one of "
            f"{tuple(round.losses)}{nearest(measure, round.losses)}"
        )
    loss = float(round.losses[measure])
    return None if measure in round.skipped and math.isnan(loss) else loss
