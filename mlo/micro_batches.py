"""One update on several batches, whose losses are summed with weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatches:
    """``g = Σ_i w_i g(batch_i)``: batches that an update takes together, though one at a time.

    Attributes:
        batches: The batches.
        weights: One for each.
    """

    batches: tuple[Any, ...]
    weights: tuple[float, ...]


Weighing = tuple[float, Any]
"""A weight and the batch it belongs to."""


def joined(drawn: Sequence[Weighing]) -> Any:
    """Return the mean over what was drawn: the batch itself if it is one, and its weight is 1.

    >>> joined([(1.0, "a")])
    'a'
    >>> joined([(1.0, "a"), (1.0, "b")]).weights
    (0.5, 0.5)
    """
    if len(drawn) == 1 and drawn[0][0] == 1.0:
        return drawn[0][1]
    return MicroBatches(
        batches=tuple(batch for _, batch in drawn),
        weights=tuple(weight / len(drawn) for weight, _ in drawn),
    )


def parts(batch: Any) -> tuple[Weighing, ...]:
    """Return weights and batches, ``(1, batch)`` for an ordinary batch.

    >>> parts("a")
    ((1.0, 'a'),)
    """
    if isinstance(batch, MicroBatches):
        return tuple(zip(batch.weights, batch.batches, strict=True))
    return ((1.0, batch),)
