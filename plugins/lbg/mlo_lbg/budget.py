"""How long a search for groups runs."""

from dataclasses import dataclass

from mlo.errors import MloError
from mlo_lbg.data.dataset import Halves


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a search runs.

    Attributes:
        rounds: Updates of the outermost problem at most.
        batch_size: Examples in every batch.
        patience: Stop after so many epochs without a lower validation loss and go back to the best
            epoch; None to run all rounds and keep the last.

    Raises:
        MloError: If a number is out of range.
    """

    rounds: int = 600
    batch_size: int = 64
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MloError(f"search: {name} must be >= 1, got {value}")

    def rounds_per_epoch(self, halves: Halves) -> int:
        """Return the rounds of one pass over the training half."""
        return max(1, -(-len(halves.train) // self.batch_size))
