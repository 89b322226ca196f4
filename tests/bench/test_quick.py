"""Every timed case runs in its quick form, with the checks of equality that it makes."""

import pytest
import torch

from mlo.bench import compiled, lbg_groups, lbg_round, levels, overhead, peers, upper_step
from mlo.bench.case import Settings
from mlo.bench.programs import PROGRAMS, BenchmarkError, input_scaling
from mlo.bench.ratio import Ratio
from mlo.response.implicit import neumann

QUICK = Settings(quick=True)


@pytest.fixture
def checked(monkeypatch):
    """Record the largest disagreement of each check that a case makes."""
    found = {}

    def watch(module):
        original = module.check_equal

        def check(label, gradients, baseline, tolerance):
            distances = original(label, gradients, baseline, tolerance)
            found[label] = (set(gradients), max(distances.values(), default=0.0), tolerance)
            return distances

        monkeypatch.setattr(module, "check_equal", check)
        return found

    return watch


@pytest.fixture
def alone(monkeypatch):
    """Let no peer be installed."""
    monkeypatch.setattr(peers, "installed", lambda distribution: None)


@pytest.fixture
def in_this_process(monkeypatch):
    """Measure no memory, which takes processes of their own; see test_memory."""
    monkeypatch.setattr(upper_step, "in_new_process", lambda function, *arguments: 3 * 2**20)


@pytest.mark.usefixtures("in_this_process")
def test_upper_step(checked):
    checks = checked(upper_step)
    rows = upper_step.run(QUICK).rows
    assert len(checks) == len(PROGRAMS) * len(upper_step.METHODS) * len(upper_step.TOLERANCES)
    for variants, distance, tolerance in checks.values():
        assert {upper_step.HAND, upper_step.MLO} <= variants
        assert distance <= tolerance
    timed = [row for row in rows if row["what"] != upper_step.MEMORY]
    assert len(timed) == 2 * len(PROGRAMS) * len(upper_step.METHODS)
    for row in timed:
        assert isinstance(row["mlo"], Ratio)
        assert row["what"] in (upper_step.STEP, upper_step.ROUND)
        if peers.installed(peers.BETTY):
            assert isinstance(row[peers.BETTY], Ratio)
    (memory,) = (row for row in rows if row["what"] == upper_step.MEMORY)
    assert (memory["by hand"], memory["unit"], memory["mlo"]) == (3.0, "MiB", 1.0)


@pytest.mark.usefixtures("in_this_process", "alone")
def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(upper_step, "PROGRAMS", {"input scaling": input_scaling})
    for row in upper_step.run(QUICK).rows:
        assert row[peers.BETTY] == "not installed"
        assert row[peers.TORCHOPT] == ("not installed" if row["method"] == "CG K=5" else None)


@pytest.mark.usefixtures("in_this_process", "alone")
def test_variants_that_are_not_equal_are_not_timed(monkeypatch):
    name = "Neumann K=5"
    method = upper_step.METHODS[name]
    wrong = upper_step.Method(response=neumann(terms=2), by_hand=method.by_hand, betty=method.betty)
    monkeypatch.setattr(upper_step, "METHODS", {name: wrong})
    monkeypatch.setattr(upper_step, "interleaved", None)
    with pytest.raises(BenchmarkError, match=r"Neumann K=5.*nothing was timed"):
        upper_step.run(QUICK)


@pytest.mark.usefixtures("alone")
def test_memory_that_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(upper_step, "in_new_process", lambda function, *arguments: None)
    monkeypatch.setattr(upper_step, "PROGRAMS", {"input scaling": input_scaling})
    (memory,) = (r for r in upper_step.run(QUICK).rows if r["what"] == upper_step.MEMORY)
    assert (memory["by hand"], memory["mlo"]) == ("not measured here", None)


def test_levels(checked):
    checks = checked(levels)
    rows = levels.run(QUICK).rows
    assert [row["levels"] for row in rows] == [3, 4]
    assert [row["mlo (evaluations)"] for row in rows] == [2 * 3 + 1, 2 * 4 + 1]
    assert len(checks) == 2
    if peers.installed(peers.BETTY):
        assert [row[f"{peers.BETTY} (evaluations)"] for row in rows] == [25, 65]
        assert all(peers.BETTY in variants for variants, _, _ in checks.values())
        assert all(isinstance(row[peers.BETTY], Ratio) for row in rows)


@pytest.mark.usefixtures("alone")
def test_levels_without_the_peer():
    assert [row[peers.BETTY] for row in levels.run(QUICK).rows] == ["not installed"] * 2


def test_lbg_round(checked):
    pytest.importorskip("mlo_lbg")
    checks = checked(lbg_round)
    rows = {row["mixed product"]: row for row in lbg_round.run(QUICK).rows}
    assert set(rows) == set(lbg_round.PRODUCTS)
    assert len(checks) == 2 * len(rows)
    assert rows["double backward"]["error"] == 0
    assert rows["separable"]["error"] < 1e-5
    assert 0 < rows["finite difference"]["error"] < 1
    assert all(isinstance(row["mlo"], Ratio) for row in rows.values())


def test_lbg_round_without_the_plugin(monkeypatch):
    monkeypatch.setattr(lbg_round, "PLUGIN", "no_such_plugin")
    found = lbg_round.run(QUICK)
    assert found.rows == []
    assert found.notes == ("no_such_plugin is not installed, so nothing was measured.",)


def test_overhead(checked):
    checks = checked(overhead)
    before = torch.get_rng_state()
    rows = overhead.run(QUICK).rows
    assert [row["round"] for row in rows] == ["plain update", "bilevel round"]
    assert set(checks) == {"plain update", "bilevel round"}
    assert torch.equal(before, torch.get_rng_state())
    assert all(isinstance(row["mlo"], Ratio) for row in rows)


def test_compile(checked):
    checks = checked(compiled)
    rows = compiled.run(QUICK).rows
    assert {row["variant"] for row in rows} == set(compiled.VARIANTS) - {compiled.EAGER}
    assert len(checks) == 2 * len(PROGRAMS)
    assert all(isinstance(row["ratio"], Ratio) for row in rows)


def test_lbg_groups():
    (row,) = lbg_groups.run(QUICK).rows
    for groups in lbg_groups.GROUPS[1:]:
        assert isinstance(row[f"K = {groups}"], Ratio)
