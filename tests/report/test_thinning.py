"""A curve in bounded memory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.report.spread import Spread
from mlo.report.thinning import Thinned


def lists(floats):
    """Return lists of all lengths: left to itself, Hypothesis makes few that are long."""
    return st.integers(0, 300).flatmap(lambda size: st.lists(floats, min_size=size, max_size=size))


VALUES = lists(st.floats(-1e300, 1e300))


def curve_of(values, capacity=16):
    curve = Thinned(capacity)
    for step, value in enumerate(values):
        curve.add(float(step), value)
    return curve


@settings(max_examples=60)
@given(values=VALUES, capacity=st.integers(16, 40))
def test_few_points_are_kept_and_the_extremes_and_both_ends_among_them(values, capacity):
    curve = curve_of(values, capacity)
    steps, kept = curve.points()
    assert len(steps) <= capacity
    assert curve.count == len(values)
    assert (np.diff(steps) >= 0).all()
    points = set(enumerate(values))
    assert {(int(s), v) for s, v in zip(steps, kept, strict=True)} <= points
    if values:
        assert kept.min() == min(values)
        assert kept.max() == max(values)
        assert steps[0] == 0
        assert steps[-1] == len(values) - 1
        assert curve.last == (len(values) - 1, values[-1])


@settings(max_examples=60)
@given(values=VALUES)
def test_up_to_the_capacity_everything_is_kept_in_order(values):
    curve = curve_of(values[:16])
    assert curve.is_whole
    for steps, kept in (curve.points(), curve.means()):
        assert steps.tolist() == list(range(len(values[:16])))
        assert kept.tolist() == values[:16]


@settings(max_examples=60)
@given(values=lists(st.floats(-1e3, 1e3)).filter(len))
def test_bucket_means_are_means_of_consecutive_points(values):
    steps, means = curve_of(values).means()
    # Buckets hold 2^k points each, the last one what is left.
    stride = next(s for s in (2**k for k in range(10)) if math.ceil(len(values) / s) == len(means))
    parts = [values[at : at + stride] for at in range(0, len(values), stride)]
    np.testing.assert_allclose(means, [np.mean(part) for part in parts], rtol=1e-9, atol=1e-9)
    middles = [
        np.mean(range(len(values))[at : at + stride]) for at in range(0, len(values), stride)
    ]
    np.testing.assert_allclose(steps, middles, rtol=1e-9)


def test_every_dip_of_a_long_curve_shows():
    values = np.ones(100_000)
    values[[12_345, 99_998]] = -1.0
    curve = curve_of(values.tolist(), 2000)
    steps, kept = curve.points()
    assert len(steps) <= 2000
    assert steps[kept < 0].tolist() == [12_345, 99_998]


def test_steps_that_go_back_are_put_in_order():
    curve = Thinned(16)
    for step in (3.0, 1.0, 2.0):
        curve.add(step, step)
    assert curve.points()[0].tolist() == [1.0, 2.0, 3.0]
    assert curve.last == (2.0, 2.0)


@pytest.mark.parametrize("size", [0, 1, 5, 6, 7, 100, 1001])
def test_spread_items_are_few_evenly_spaced_and_end_with_the_newest(size):
    spread = Spread(6)
    for item in range(size):
        spread.add(item)
    kept = spread.items()
    assert len(kept) <= 6
    assert kept[:1] + kept[-1:] == ([0, size - 1] if size else [])
    gaps = set(np.diff(kept[:-1]).tolist())
    assert len(gaps) <= 1
