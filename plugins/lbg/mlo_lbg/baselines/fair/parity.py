"""What a method that enforces a constraint is to make equal between attribute values."""

from enum import Enum

from mlo_lbg.baselines.fair.cells import cell_sizes
from mlo_lbg.baselines.fair.errors import FairBaselineError
from mlo_lbg.data.dataset import Examples


class Parity(Enum):
    """Rates of a binary classifier that are to be equal between attribute values.

    Values are the names that fairlearn uses.
    """

    EQUALIZED_ODDS = "equalized_odds"
    """`P(ŷ=1 | y, a)` for y = 0 and y = 1."""

    DEMOGRAPHIC_PARITY = "demographic_parity"
    """`P(ŷ=1 | a)`."""


def check_binary(examples: Examples, *, method: str) -> None:
    """Refuse examples on which the rates of one of the attribute values are not defined.

    Args:
        examples: Training examples.
        method: Name of the method, for the error.

    Raises:
        FairBaselineError: If there are not two classes, or an attribute value has one class only.
    """
    if examples.num_classes != 2:
        raise FairBaselineError(
            f"num_classes: expected 2, as {method} is defined for two classes, "
            f"got {examples.num_classes}"
        )
    for value, counts in enumerate(cell_sizes(examples).T.tolist()):
        if any(counts) and not all(counts):
            raise FairBaselineError(
                f"train: expected examples of both classes with attribute {value} for {method}, "
                f"got {counts[0]} of class 0 and {counts[1]} of class 1"
            )
