"""Means over seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.report.averaging import average, estimate_of, split_seed
from mlo.report.thinning import Thinned


def curve_of(points, capacity=2000):
    curve = Thinned(capacity)
    for step, value in points:
        curve.add(float(step), float(value))
    return curve


@settings(max_examples=200)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_an_estimate_is_numpys_mean_and_standard_deviation_over_root_n(values):
    found = estimate_of(values)
    assert found.n == len(values)
    np.testing.assert_allclose(found.mean, np.mean(values), rtol=1e-12, atol=1e-6)
    expected = np.std(values, ddof=1) / np.sqrt(len(values))
    np.testing.assert_allclose(found.error, expected, rtol=1e-9, atol=1e-6)


def test_one_value_has_no_error():
    assert estimate_of([3.0]).error is None


def test_equal_values_have_no_error_at_all():
    found = estimate_of([0.1, 0.1, 0.1])
    assert (found.mean, found.error) == (0.1, 0.0)


@settings(max_examples=50)
@given(
    values=st.integers(1, 4).flatmap(
        lambda seeds: st.lists(
            st.lists(st.floats(-1e3, 1e3), min_size=seeds, max_size=seeds), min_size=1, max_size=40
        )
    )
)
def test_seeds_of_the_same_steps_are_averaged_step_by_step(values):
    table = np.array(values).T
    curves = [(str(seed), curve_of(enumerate(row))) for seed, row in enumerate(table)]
    found = average(curves)
    assert found.steps.tolist() == list(range(table.shape[1]))
    np.testing.assert_allclose(found.mean, table.mean(0), rtol=1e-9, atol=1e-9)
    if len(table) > 1:
        expected = table.std(0, ddof=1) / np.sqrt(len(table))
        np.testing.assert_allclose(found.error, expected, rtol=1e-9, atol=1e-9)
    else:
        assert found.error is None
    np.testing.assert_allclose(found.last.mean, table[:, -1].mean(), rtol=1e-9, atol=1e-9)


def test_the_mean_ends_where_the_first_seed_ends():
    long, short = curve_of([(0, 1), (10, 3), (20, 5)]), curve_of([(0, 3), (10, 5)])
    found = average([("0", long), ("1", short)])
    assert found.steps.tolist() == [0, 10]
    assert found.mean.tolist() == [2, 4]
    assert [len(member.steps) for member in found.members] == [3, 2]


def test_a_seed_recorded_at_other_steps_is_taken_on_the_line_between_them():
    found = average(
        [("0", curve_of([(0, 0), (10, 10)])), ("1", curve_of([(0, 0), (5, 7), (10, 10)]))]
    )
    assert found.steps.tolist() == [0, 5, 10]
    assert found.mean.tolist() == [0, 6, 10]


def test_a_step_that_was_repeated_after_a_resume_counts_as_it_was_at_last():
    found = average([("0", curve_of([(0, 1), (1, 9), (1, 3)])), ("1", curve_of([(0, 1), (1, 5)]))])
    assert found.mean.tolist() == [1, 4]


def test_thinned_seeds_are_averaged_without_preferring_their_peaks():
    steps = np.arange(10_000)
    spiky = (steps % 100 == 0) * 100.0
    curves = [(str(seed), curve_of(enumerate(spiky), 200)) for seed in range(2)]
    found = average(curves)
    assert len(found.steps) <= 200
    assert abs(found.mean.mean() - spiky.mean()) < 0.1
    assert found.error.max() == 0
    assert found.members[0].values.max() == 100


def test_seeds_that_never_overlap_have_no_mean_but_are_there():
    found = average([("0", curve_of([(0, 1), (1, 1)])), ("1", curve_of([(5, 1), (6, 1)]))])
    assert len(found.steps) == 0
    assert len(found.members) == 2


@pytest.mark.parametrize("huge", [1e308, -1e308])
def test_the_largest_numbers_overflow_in_silence(huge):
    found = average([("0", curve_of([(0, huge), (1, 1)])), ("1", curve_of([(0, -huge), (1, 1)]))])
    assert found.mean[1] == 1


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("", ("", None)),
        ("seed-0", ("", "0")),
        ("a/b/seed-x1", ("a/b", "x1")),
        ("seed-0/a", ("seed-0/a", None)),
        ("a-seed-0", ("a-seed-0", None)),
        ("a/seed-", ("a/seed-", None)),
    ],
)
def test_only_the_last_part_of_a_scope_is_a_seed(scope, expected):
    assert split_seed(scope) == expected
