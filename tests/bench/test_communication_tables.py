"""Sizes of tables, late updates, and what failures cost."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo.bench import communication_failures, communication_memory, communication_staleness
from mlo.bench.case import Settings
from mlo.bench.communication_failures import between_failures, daly, lost, simulated, young
from mlo.bench.communication_memory import LAYOUTS, Layout
from mlo.bench.communication_staleness import (
    changed,
    simulated_staleness,
    stale_drawn,
    stale_shuffled,
)

QUICK = Settings(quick=True)


def test_today_is_what_sparse_adam_holds():
    """Measured on a small table: entries and two dense moments."""
    table = torch.nn.Embedding(1000, 8, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    table(torch.tensor([3])).sum().backward()
    optimizer.step()
    (state,) = optimizer.state.values()
    held = [table.weight, state["exp_avg"], state["exp_avg_sq"]]
    assert sum(t.numel() * t.element_size() for t in held) == LAYOUTS[0].bytes(1000)


def test_sizes_by_hand():
    assert Layout(name="", entry=4, row=4).bytes(10, 8) == 10 * (32 + 4)
    rows = communication_memory.run(QUICK).rows
    first = rows[0]
    assert (first["rows"], first["GB"], first["GPUs of 80 GB"]) == (10**9, 96, 3)
    assert rows[len(LAYOUTS)]["GB"] == 960


@pytest.mark.parametrize("delay", [1, 3, 10])
@pytest.mark.parametrize(("is_shuffled", "formula"), [(False, stale_drawn), (True, stale_shuffled)])
def test_late_updates_are_missed_as_often_as_the_formula_says(is_shuffled, formula, delay):
    found = simulated_staleness(delay, 100, 4000, epochs=60, is_shuffled=is_shuffled, seed=0)
    expected = formula(delay, 100, 4000)
    # About three standard errors of a count of rare events.
    lookups = 59 * 4000
    assert found == pytest.approx(expected, abs=4 * math.sqrt(expected / lookups) + 0.05 * expected)


def test_without_delay_nothing_is_stale():
    assert simulated_staleness(0, 10, 100, epochs=3, is_shuffled=True, seed=0) == 0
    assert stale_drawn(0, 10, 100) == stale_shuffled(0, 10, 100) == 0


def test_rows_that_change_by_drawing():
    generator = torch.Generator().manual_seed(0)
    touched = torch.zeros(2000, dtype=torch.bool)
    for _ in range(30):
        touched[torch.randperm(2000, generator=generator)[:40]] = True
    assert float(touched.double().mean()) == pytest.approx(changed(30, 40, 2000), abs=0.02)


def test_the_table_of_late_updates():
    rows = communication_staleness.run(QUICK).rows
    assert [row.get("delay (rounds)") for row in rows] == [1, 10, 1, 10, None, None, None, None]
    assert rows[-1]["changed, 1e9 rows"] == 1


@given(st.floats(0.1, 1000), st.floats(1e4, 1e7))
def test_the_interval_of_daly_loses_least(save, failures):
    best = daly(save, failures)
    least = lost(best, save, failures)
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert least <= lost(factor * best, save, failures) + 1e-4 * least + 1e-12
    assert best == pytest.approx(young(save, failures), rel=0.5)


def test_saves_that_outlast_failures():
    assert daly(300.0, 100.0) == 100.0


@pytest.mark.parametrize("work", [60.0, 300.0, 3000.0])
def test_failures_that_are_drawn_cost_what_the_formula_says(work):
    found = simulated(work, 20.0, 4000.0, 100.0, count=200000, seed=0)
    assert found == pytest.approx(lost(work, 20.0, 4000.0, 100.0), rel=0.01)


def test_first_order_parts_of_what_is_lost():
    """δ / T for saving, T / 2M for work done twice, R / M for restarts, where all are small."""
    save, work, failures, restart = 1.0, 1000.0, 1e6, 30.0
    parts = save / work + work / (2 * failures) + restart / failures
    assert lost(work, save, failures, restart) == pytest.approx(parts, rel=5e-3)


def test_the_table_of_failures():
    rows = communication_failures.run(QUICK).rows
    assert len(rows) == 3 * 4
    assert between_failures(8) == 512 * between_failures(4096)
    for row in rows:
        assert row["lost"] <= row["lost, saving every 6 hours"]
