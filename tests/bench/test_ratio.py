"""Ratios of paired measurements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlo.bench.ratio import quartiles, ratio

times = st.floats(1e-6, 1e3)


@given(st.lists(st.tuples(times, times, st.floats(0.5, 2.0)), min_size=1, max_size=20))
def test_what_slows_both_sides_of_a_pair_cancels(pairs):
    numerators, denominators, slowdowns = zip(*pairs, strict=True)
    plain = ratio(numerators, denominators)
    slowed = ratio(
        [n * s for n, s in zip(numerators, slowdowns, strict=True)],
        [d * s for d, s in zip(denominators, slowdowns, strict=True)],
    )
    assert slowed.median == pytest.approx(plain.median)
    assert slowed.lower == pytest.approx(plain.lower)
    assert slowed.upper == pytest.approx(plain.upper)
    assert slowed.pairs == plain.pairs == len(pairs)


@given(st.lists(times, min_size=1, max_size=20))
def test_quartiles_are_in_order_and_within_the_values(values):
    lower, median, upper = quartiles(values)
    assert min(values) <= lower <= median <= upper <= max(values)


def test_quartiles_of_known_values():
    assert quartiles([4.0, 1.0, 3.0, 2.0]) == (1.75, 2.5, 3.25)


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        ratio([], [])


def test_pairs_need_two_sides():
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0, 2.0], [1.0])
