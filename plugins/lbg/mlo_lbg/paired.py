"""Whether two methods differ, judged by runs that share their seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mlo.errors import MloError

_ROUNDING = 1e-12
"""Differences below this share of the largest value are those of floating-point arithmetic."""

_ENUMERATED_UP_TO = 8
"""Pairs up to which all assignments of signs are enumerated if there are ties."""


class PairedError(MloError):
    """Two rows of results cannot be compared seed by seed."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mean of `first − second` over seeds, and how surprising it would be without a difference.

    Attributes:
        num_seeds: Number of pairs.
        mean_difference: Mean of `first − second`.
        standard_error: Its standard error; the corrected one if `corrected`.
        t_test: Two-sided p of the paired t-test.
        wilcoxon: Two-sided p of the signed-rank test; None where it is undefined or could not reach
            `level` with so few pairs.
        corrected: Whether standard error and `t_test` allow for training sets that overlap.
        level: Below this p two methods count as different.
    """

    num_seeds: int
    mean_difference: float
    standard_error: float
    t_test: float
    wilcoxon: float | None
    corrected: bool
    level: float

    @property
    def differs(self) -> bool:
        """Whether the t-test finds a difference at `level`."""
        return self.t_test < self.level

    @property
    def decision(self) -> str:
        """One line: lower, higher or not told apart, by how much, and the p values."""
        if not self.differs:
            verdict = "not told apart"
        else:
            verdict = "lower" if self.mean_difference < 0 else "higher"
        test = "corrected paired t-test" if self.corrected else "paired t-test"
        signed_rank = "" if self.wilcoxon is None else f", Wilcoxon p = {self.wilcoxon:.2g}"
        return (
            f"{verdict}: {self.mean_difference:+.4f} ± {self.standard_error:.4f} over "
            f"{self.num_seeds} seeds, {test} p = {self.t_test:.2g}{signed_rank}"
        )


def paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    train_share: float | None = None,
    test_share: float | None = None,
    level: float = 0.05,
) -> Comparison:
    """Test `mean(first − second) = 0` by `t = d̄ / √(s² (1/n + test_share / train_share))`.

    Without shares it is the paired t-test, `t = d̄ / √(s²/n)`. Where each seed divides one data set
    anew, training sets overlap, so that the runs are not independent and `s²/n` is too small: give
    the shares. Then there is no signed-rank test, which knows no such correction.

    Without any spread, p is 1 if all differences are 0, and else 0: the limits of the test.

    Args:
        first: One value per seed.
        second: One value per seed of the other method, in the same order of seeds.
        train_share: Share of the data set that a seed trains on.
        test_share: Share of the data set that a seed tests on.
        level: Below this p methods count as different.

    Raises:
        PairedError: If there are fewer than two pairs, unequal lengths, values that are not finite,
            or shares or a level out of range.

    References:
        Nadeau and Bengio (2003), Inference for the generalization error,
        doi 10.1023/A:1024068626366.

    >>> found = paired([0.10, 0.11, 0.13], [0.14, 0.16, 0.16])
    >>> print(found.decision)
    lower: -0.0400 ± 0.0058 over 3 seeds, paired t-test p = 0.02
    >>> paired([0.1, 0.2], [0.1, 0.2]).t_test
    1.0
    """
    ratio = _checked_ratio(train_share, test_share)
    if not 0 < level < 1:
        raise PairedError(f"level: expected a number between 0 and 1, got {level}")
    a, b = _checked("first", first), _checked("second", second)
    if len(a) != len(b):
        raise PairedError(f"second: expected {len(a)} values as first has, got {len(b)}")
    if len(a) < 2:
        raise PairedError(f"first: expected values of at least 2 seeds, got {len(a)}")
    differences = _without_rounding(a, b)
    mean, count = float(differences.mean()), len(differences)
    if np.ptp(differences) == 0:
        error, p = 0.0, 1.0 if mean == 0 else 0.0
    else:
        error = float(differences.std(ddof=1)) * math.sqrt(1 / count + (ratio or 0.0))
        p = _t_test(differences) if ratio is None else _p_of_t(mean / error, count - 1)
    return Comparison(
        num_seeds=count,
        mean_difference=mean,
        standard_error=error,
        t_test=p,
        wilcoxon=_wilcoxon(differences, level) if ratio is None else None,
        corrected=ratio is not None,
        level=level,
    )


def _checked_ratio(train_share: float | None, test_share: float | None) -> float | None:
    if train_share is None and test_share is None:
        return None
    if train_share is None or test_share is None:
        missing = "train_share" if train_share is None else "test_share"
        raise PairedError(f"{missing}: expected a share, as the other one is given, got None")
    if not (train_share > 0 and test_share > 0 and train_share + test_share <= 1 + _ROUNDING):
        raise PairedError(
            f"train_share: expected shares above 0 that add up to 1 at most, got "
            f"train_share={train_share} and test_share={test_share}"
        )
    return test_share / train_share


def _checked(name: str, values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise PairedError(f"{name}: expected one value per seed, got shape {array.shape}")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise PairedError(
            f"{name}: expected finite values, got {array[wrong[0]]} at place {wrong[0]}"
        )
    return array


def _without_rounding(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`first − second` on a grid: equal shares of a count differ in their last bits only."""
    scale = max(np.abs(first).max(), np.abs(second).max())
    if scale == 0:
        return np.zeros_like(first)
    # A power of two, so that scaling itself does not round.
    grid = 2.0 ** math.floor(math.log2(scale * _ROUNDING))
    if grid == 0:
        return first - second
    rounded: NDArray[np.float64] = np.round((first - second) / grid) * grid
    return rounded


def _t_test(differences: NDArray[np.float64]) -> float:
    return float(stats.ttest_rel(differences, np.zeros_like(differences)).pvalue)


def _p_of_t(t: float, freedom: int) -> float:
    return float(2 * stats.t.sf(abs(t), freedom))


def _wilcoxon(differences: NDArray[np.float64], level: float) -> float | None:
    differing = differences[differences != 0]
    if not differing.size or 2.0 ** (1 - differing.size) >= level:
        return None
    # Ties among the sizes invalidate the tabulated law. For few pairs all signs are enumerated,
    # which takes a second for ten pairs and many for more.
    if len(np.unique(np.abs(differing))) == len(differing):
        return float(stats.wilcoxon(differing, method="exact").pvalue)
    if len(differing) <= _ENUMERATED_UP_TO:
        signs = stats.PermutationMethod(n_resamples=2 ** len(differing))
        return float(stats.wilcoxon(differing, method=signs).pvalue)
    return float(stats.wilcoxon(differing, method="asymptotic").pvalue)
