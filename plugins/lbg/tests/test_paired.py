"""Paired tests: their laws, their degenerate cases and what scipy says."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from mlo_lbg.paired import PairedError, paired

SHARES = st.integers(0, 1000).map(lambda count: count / 1000)
PAIRS = st.lists(st.tuples(SHARES, SHARES), min_size=2, max_size=20)


def apart(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_nothing_is_ever_nan_and_p_is_a_probability(pairs: list[tuple[float, float]]) -> None:
    first, second = apart(pairs)
    for found in (paired(first, second), paired(first, second, train_share=0.7, test_share=0.3)):
        assert math.isfinite(found.mean_difference)
        assert found.standard_error >= 0
        assert 0 <= found.t_test <= 1
        assert found.wilcoxon is None or 0 < found.wilcoxon <= 1
        assert "nan" not in found.decision


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_exchanging_the_methods_changes_the_sign_only(pairs: list[tuple[float, float]]) -> None:
    first, second = apart(pairs)
    found, exchanged = paired(first, second), paired(second, first)
    assert found.mean_difference == -exchanged.mean_difference
    assert found.standard_error == pytest.approx(exchanged.standard_error)
    assert found.t_test == pytest.approx(exchanged.t_test)
    assert found.wilcoxon == exchanged.wilcoxon


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_seeds_does_not_matter(
    pairs: list[tuple[float, float]], random: np.random.RandomState
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert paired(*apart(shuffled)).t_test == pytest.approx(paired(*apart(pairs)).t_test)


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_it_is_scipys_t_test(pairs: list[tuple[float, float]]) -> None:
    first, second = apart(pairs)
    differences = np.subtract(first, second)
    assume(np.ptp(differences) > 1e-6)
    found = paired(first, second)
    assert found.t_test == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=1e-9)
    assert found.standard_error == pytest.approx(stats.sem(differences))


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.floats(0.05, 0.5))
def test_overlapping_training_sets_only_make_it_more_careful(
    pairs: list[tuple[float, float]], share: float
) -> None:
    first, second = apart(pairs)
    plain = paired(first, second)
    corrected = paired(first, second, train_share=1 - share, test_share=share)
    assert corrected.t_test >= plain.t_test - 1e-12
    assert corrected.wilcoxon is None
    ratio = math.sqrt(1 + len(pairs) * share / (1 - share))
    assert corrected.standard_error == pytest.approx(plain.standard_error * ratio)


def test_the_corrected_test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, variance 1; t = 2 / √(1 · (1/3 + 1/4)).
    found = paired([1, 2, 3], [0, 0, 0], train_share=0.8, test_share=0.2)
    t = 2 / math.sqrt(1 / 3 + 1 / 4)
    # Student's law with two degrees of freedom has a closed form.
    assert found.t_test == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_without_any_spread_the_limits_of_the_test_are_reported() -> None:
    same = paired([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (same.t_test, same.wilcoxon, same.differs) == (1.0, None, False)
    assert same.decision.startswith("not told apart")
    # Equal up to rounding: 0.3 − 0.2 and 0.2 − 0.1 are not the same floating-point number.
    shifted = paired([0.2, 0.3, 0.4], [0.1, 0.2, 0.3])
    assert (shifted.t_test, shifted.standard_error) == (0.0, 0.0)
    assert shifted.decision.startswith("higher: +0.1000 ± 0.0000")
    assert paired([0, 0], [0, 0]).t_test == 1.0


def test_the_signed_rank_test_is_exact_with_ties_and_silent_where_it_cannot_reject() -> None:
    six = paired([1, 1, 1, 2, 2, 2], [0] * 6)
    # All six signs equal: two of 2⁶ assignments are as extreme.
    assert six.wilcoxon == pytest.approx(2 / 2**6)
    assert paired([1, 2, 3, 4, 5], [0] * 5).wilcoxon is None
    assert paired([1, 2, 3, 4, 5, 0], [0] * 6).wilcoxon is None
    many = paired(list(range(1, 21)), [0] * 20)
    assert many.wilcoxon is not None
    assert many.wilcoxon < 1e-3


def test_the_decision_follows_the_level() -> None:
    first, second = [0.10, 0.11, 0.13], [0.14, 0.16, 0.16]
    assert paired(first, second).decision.startswith("lower")
    assert paired(first, second, level=0.01).decision.startswith("not told apart")


def test_under_no_difference_one_in_twenty_is_found() -> None:
    random = np.random.default_rng(0)
    found = [paired(*random.normal(size=(2, 5)).tolist()).differs for _ in range(400)]
    assert 0.02 < np.mean(found) < 0.09


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        ([1.0], [1.0], {}, "at least 2 seeds, got 1"),
        ([1.0, 2.0], [1.0], {}, "expected 2 values as first has, got 1"),
        ([1.0, math.nan], [1.0, 2.0], {}, "first: expected finite values, got nan at place 1"),
        ([[1.0]], [1.0], {}, "one value per seed"),
        ([1.0, 2.0], [1.0, 2.0], {"test_share": 0.3}, "train_share: expected a share"),
        ([1.0, 2.0], [1.0, 2.0], {"train_share": 0.7}, "test_share: expected a share"),
        ([1.0, 2.0], [1.0, 2.0], {"train_share": 0.8, "test_share": 0.3}, "add up to 1"),
        ([1.0, 2.0], [1.0, 2.0], {"train_share": 0.0, "test_share": 0.3}, "above 0"),
        ([1.0, 2.0], [1.0, 2.0], {"level": 0.0}, "level: expected a number between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    first: list[float], second: list[float], options: dict[str, float], message: str
) -> None:
    with pytest.raises(PairedError, match=message):
        paired(first, second, **options)
