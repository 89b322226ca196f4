"""What happened in one round."""

from dataclasses import dataclass

from torch import Tensor

from mlo.outcome import Outcome


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """One update of the outermost problem, with those of the problems below it.

    Attributes:
        number: Counted from 1 over the life of the engine.
        losses: Loss of each problem at its last update, 0-dim tensors on the engine's device.
        outcomes: For each differentiated problem, how the problems below it answered.
        skipped: Problems of which an update was skipped, as its scaled gradient overflowed; the
            loss of one is NaN.
        warming: Problems that were not updated, as the round belongs to their warm-up.
    """

    number: int
    losses: dict[str, Tensor]
    outcomes: dict[str, dict[str, Outcome]]
    skipped: tuple[str, ...] = ()
    warming: tuple[str, ...] = ()
