"""The checker passes what is right, and leaves the program as it was."""

import copy
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional

import mlo
from mlo import Graph, Problem
from mlo.testing import Cause, HypergradientError, check_hypergradient
from mlo.testing.quadratic import UPPER
from mlo.testing.strategies import known, nested_programs, programs, smooth_programs
from tests.programs import network, regression_batches, same_bits, snapshot, two_levels


@settings(max_examples=12)
@given(known(response=mlo.exact(), among=programs))
def test_exact_responses_of_quadratics_pass(known):
    report = check_hypergradient(known.graph, known.target, strict=True)
    assert report.total.relative_error < 1e-6
    assert {row.problem for row in report.rows} == set(known.graph.sweeps[UPPER].order)
    assert report.findings == ()


@settings(max_examples=8)
@given(known(response=mlo.cg(steps=40), among=smooth_programs))
def test_converged_cg_on_smooth_programs_passes(known):
    report = check_hypergradient(known.graph, known.target, strict=True)
    assert report.total.relative_error < 1e-5
    assert report.findings == ()


@settings(max_examples=4)
@given(known(response=mlo.exact(), among=nested_programs))
def test_nested_programs_pass(known):
    report = check_hypergradient(known.graph, known.target, directions=1)
    assert report.total.relative_error < 1e-4


@settings(max_examples=4)
@given(known(response=mlo.exact(), among=programs, dtype=torch.float32))
def test_float32_programs_are_checked_in_float64(known):
    report = check_hypergradient(known.graph, known.target)
    assert report.total.relative_error < 1e-6
    assert all(p.dtype is torch.float32 for p in known.graph.problem(UPPER).parameters().values())


@settings(max_examples=5)
@given(known(response=mlo.exact(), among=smooth_programs))
def test_the_measured_slopes_are_those_of_the_closed_form(known):
    report = check_hypergradient(known.graph, known.target, directions=100)
    exact = torch.cat([t.reshape(-1) for t in known.gradient.values()])
    # As many orthonormal directions as there are variables keep the length.
    measured = torch.tensor(report.total.measured, dtype=torch.float64)
    assert float(measured.norm()) == pytest.approx(float(exact.norm()), rel=1e-5, abs=1e-8)


class Everything(nn.Module):
    """Dropout, BatchNorm in train mode, a frozen layer, a sparse embedding; all in float32."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3, sparse=True)
        self.frozen = nn.Linear(3, 3).requires_grad_(requires_grad=False)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(3, 2)

    def forward(self, index):
        hidden = self.norm(self.frozen(self.embedding(index)))
        return self.last(self.drop(torch.tanh(hidden)))


def everything(response):
    torch.manual_seed(0)
    constant = torch.linspace(0, 1, 6)

    def train_loss(model, weights, batch):
        index, labels = batch["index"], batch["labels"]
        losses = functional.cross_entropy(model(index), labels, reduction="none")
        weight = weights(constant[:, None].float()).sigmoid()[:, 0]
        penalty = sum(p.square().sum() for p in model.parameters() if p.requires_grad)
        return (weight * losses).mean() + 0.05 * penalty + torch.zeros(())

    def valid_loss(model, weights, batch):
        index, labels = batch
        rest = 0.1 * weights.weight.square().sum()
        return functional.cross_entropy(model(index), labels) + rest

    return Graph(
        Problem(
            name="model",
            module=Everything(),
            loss=train_loss,
            response=response,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        ),
        Problem(name="weights", module=nn.Linear(1, 1), loss=valid_loss),
    )


BATCHES = {
    "model": {
        "index": torch.tensor([0, 1, 2, 3, 4, 0]),
        "labels": torch.tensor([0, 1, 0, 1, 1, 0]),
    },
    "weights": (torch.tensor([1, 2, 3]), torch.tensor([1, 0, 1])),
}


def test_what_real_programs_contain_is_taken_and_left_alone():
    # Double backward of a sparse embedding does not exist: first-order products do.
    graph = everything(mlo.cg(steps=60, product=mlo.FiniteDifference(radius=1e-4)))
    before = snapshot(graph)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    default = torch.get_default_dtype()
    report = check_hypergradient(graph, "weights", BATCHES, throw=False)
    assert report.total.relative_error < 1e-3, str(report)
    assert same_bits(before, snapshot(graph))
    assert all(p.grad is None for n in graph.problems.values() for p in n.module.parameters())
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.get_default_dtype() is default


def test_the_users_optimizer_is_read_and_not_touched():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    model(torch.ones(1, 3).double()).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    state = copy.deepcopy(optimizer.state_dict())
    graph = two_levels(model, mlo.cg(steps=200), optimizer=optimizer)
    report = check_hypergradient(graph, "weights", regression_batches())
    assert report.total.relative_error < 1e-5
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for key, entries in state["state"].items():
        assert all(torch.equal(after["state"][key][name], t) for name, t in entries.items())


def test_two_checks_say_the_same():
    graph = two_levels(
        network(nn.Dropout(0.2)),
        mlo.cg(steps=200),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    )
    torch.manual_seed(3)
    first = check_hypergradient(graph, "weights", regression_batches())
    second = check_hypergradient(graph, "weights", regression_batches())
    assert str(first) == str(second)
    other = check_hypergradient(graph, "weights", regression_batches(), seed=1)
    assert other.total.measured != first.total.measured


def test_importing_mlo_testing_needs_no_hypothesis():
    code = "import sys; sys.modules['hypothesis'] = None; import mlo.testing as t; print(t.Report)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Report" in done.stdout, done.stderr
    code = "import sys; sys.modules['hypothesis'] = None; import mlo.testing.strategies"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install hypothesis" in done.stderr


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wieghts", {}, "did you mean 'weights'"),
        ("model", {}, "no lower problem responds"),
        ("weights", {"directions": 0}, "directions must be an integer >= 1, got 0"),
        ("weights", {"tolerance": -1}, "tolerance must be > 0, got -1"),
    ],
)
def test_misuse_is_one_line(name, options, message):
    graph = two_levels(network(), mlo.cg())
    with pytest.raises(mlo.MloError, match=message) as caught:
        check_hypergradient(graph, name, regression_batches(), **options)
    assert "\n" not in str(caught.value)


def test_a_missing_batch_is_named():
    with pytest.raises(mlo.BatchError, match="lacks a batch for problem 'weights'"):
        check_hypergradient(two_levels(network(), mlo.cg()), "weights", {})


def test_a_failure_carries_its_report():
    graph = two_levels(
        network(),
        mlo.cg(steps=1),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    )
    with pytest.raises(HypergradientError, match="truncated") as caught:
        check_hypergradient(graph, "weights", regression_batches())
    report = caught.value.report
    assert not report.ok
    assert Cause.TRUNCATED in {finding.cause for finding in report.findings}
    accepted = check_hypergradient(graph, "weights", regression_batches(), tolerance=10)
    assert accepted.ok
