"""The ratio of two measurements that were taken in pairs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Median and quartiles of paired ratios ``a_i / b_i``.

    Pairs are measured side by side, so that a slow moment of the machine falls on both and
    cancels; the ratio of two medians would keep it.

    Attributes:
        median: Half of the pairs lie below.
        lower: A quarter of the pairs lies below.
        upper: Three quarters of the pairs lie below.
        pairs: How many there are.
    """

    median: float
    lower: float
    upper: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.lower:.3g}, {self.upper:.3g}]"


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Return median and quartiles of ``numerators[i] / denominators[i]``.

    >>> str(ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]))
    '2 [2, 2.5]'

    Raises:
        ValueError: If the two have different lengths or are empty.
    """
    quotients = [a / b for a, b in zip(numerators, denominators, strict=True)]
    if not quotients:
        raise ValueError("a ratio needs at least one pair, got none")
    lower, median, upper = quartiles(quotients)
    return Ratio(median=median, lower=lower, upper=upper, pairs=len(quotients))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the three quartiles, interpolated between the values.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 3.0, 4.0)
    >>> quartiles([7.0])
    (7.0, 7.0, 7.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, second, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, second, third
