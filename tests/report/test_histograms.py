"""Histograms over time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.report.collected import Collected, Histogram
from mlo.report.faults import Faults
from mlo.report.groups import Group
from mlo.report.histograms import QUANTILES, distributions_of, quantiles, resampled

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any)


def histogram(counts, low=0.0, high=1.0, step=0.0):
    return Histogram(
        step=step, edges=np.linspace(low, high, len(counts) + 1), counts=np.array(counts, float)
    )


@settings(max_examples=100)
@given(counts=COUNTS, bins=st.integers(1, 30))
def test_other_bins_hold_the_same_values(counts, bins):
    shares = resampled(histogram(counts), np.linspace(-1, 2, bins + 1))
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-12)
    assert shares.min() >= -1e-15


@settings(max_examples=100)
@given(counts=COUNTS)
def test_its_own_bins_give_its_own_shares(counts):
    one = histogram(counts)
    np.testing.assert_allclose(
        resampled(one, one.edges), np.array(counts) / sum(counts), atol=1e-12
    )


@settings(max_examples=100)
@given(counts=COUNTS)
def test_that_share_of_the_values_lies_below_a_quantile(counts):
    one = histogram(counts)
    below = [resampled(one, np.array([-1.0, q])).sum() for q in quantiles(one)]
    np.testing.assert_allclose(below, QUANTILES, atol=1e-9)


def test_quantiles_of_many_values_are_those_of_the_values():
    values = np.random.default_rng(0).normal(size=50_000)
    counts, edges = np.histogram(values, 200)
    one = Histogram(step=0.0, edges=edges, counts=counts.astype(float))
    np.testing.assert_allclose(quantiles(one), np.quantile(values, QUANTILES), atol=0.02)


def test_seeds_are_pooled_time_by_time():
    class Run:
        collected = Collected(Faults())

    for seed, edges in enumerate(([0, 1, 2], [0, 2, 4])):
        for step in (0, 5):
            Run.collected.add(
                1,
                {
                    "kind": "histogram",
                    "scope": f"m/seed-{seed}",
                    "step": step,
                    "name": "C",
                    "edges": edges,
                    "counts": [1, 1],
                },
            )
    [found] = distributions_of([Group(label="", runs=(Run(),))])
    assert found.title == "C · m"
    assert found.seeds == 2
    assert [time.step for time in found.times] == [0, 5]
    assert found.times[0].edges.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(found.times[0].counts, [0.375, 0.375, 0.25])
