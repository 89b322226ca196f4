"""Reductions of a round: by hand, by formula, and counted in one process."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mlo.bench import communication
from mlo.bench.case import Settings
from mlo.bench.communication import ANSWERS, Counter, Reductions, counted, expected
from mlo.bench.communication_traffic import Rows, Trained, buckets, message, traffic_of, trained_in
from mlo.graph import Graph
from mlo.parallel.traffic import Volume
from mlo.problem import Problem
from mlo.response.implicit import cg, neumann
from mlo.response.one_step import finite_difference

QUICK = Settings(quick=True)


def test_a_round_counted_by_hand():
    """Two lower updates of (6, 2) numbers, cg of two steps, an upper problem of 3; float32."""
    lower = Trained(sizes=(6, 2), updates=2, statistics=(4, 4))
    upper = Trained(sizes=(3,), asked=("lower",))
    found = traffic_of({"lower": lower, "upper": upper}, {"lower": 3}).kinds
    # Loss and gradient: 1 + 8 numbers and two flags for each of three tensors.
    assert found["gradients"] == Volume(count=2, bytes=2 * 4 * (9 + 6))
    # Twice the statistics; the cotangent; loss and hypergradient.
    assert found["means"] == Volume(count=4, bytes=4 * (2 * (8 + 4) + (8 + 4) + (4 + 4)))
    # The gradient at the point and two products, without flags.
    assert found["copies"] == Volume(count=3, bytes=3 * 4 * 8)


def test_a_sweep_over_two_solved_problems_asks_both_each_time():
    problems = {
        "t": Trained(sizes=(5,)),
        "s": Trained(sizes=(7,)),
        "c": Trained(sizes=(9,), updates=2, asked=("s", "t")),
    }
    found = traffic_of(problems, {"s": 1, "t": 4}).kinds
    assert found["copies"] == Volume(count=2 * 5, bytes=2 * 4 * (7 + 4 * 5))
    assert found["means"].count == 2 * 3


def test_a_replicated_problem_is_asked_without_a_reduction():
    lower = Trained(sizes=(6,), is_replicated=True)
    upper = Trained(sizes=(3,), asked=("lower",))
    found = traffic_of({"lower": lower, "upper": upper}, {"lower": 3}).kinds
    assert set(found) == {"gradients", "means"}
    assert found["means"] == Volume(count=1, bytes=4 * (4 + 4))


def test_sparse_rows_are_gathered():
    upper = Trained(sizes=(800,), asked=("lower",), sparse=Rows(number=5, width=8))
    found = traffic_of({"lower": Trained(sizes=(1,)), "upper": upper}, {"lower": 0}).kinds["means"]
    cotangent, loss, lengths, numbers, values = 4 * 3, 4 * 5, 16, 8 * 5, 4 * 5 * 8
    assert found == Volume(count=5, bytes=cotangent + loss + lengths + numbers + values)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(4, 200))
def test_buckets_hold_everything_once_and_no_more_than_they_may(sizes, room):
    found = buckets(sizes, 4, bucket_bytes=room)
    assert sum(found) == message(sizes, 4)
    for size in found:
        # Flags, and a tensor that is larger than a bucket, are not counted in.
        assert size <= max(room, 4 * max(sizes)) + 8 * len(sizes)


def test_a_large_model_goes_in_several_buckets():
    found = traffic_of({"net": Trained(sizes=(10, 10, 10))}, {}, bucket_bytes=100).kinds
    assert found["gradients"].count == 2


def test_what_a_graph_exchanges_is_read_from_it():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.zeros(3, dtype=torch.float64))
            self.register_buffer("statistic", torch.zeros(2))
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    graph = Graph(
        Problem(
            name="lower",
            module=Half(),
            loss=lambda lower, upper: (lower.value * upper.value).sum() ** 2,
            steps=4,
            response=neumann(terms=2),
        ),
        Problem(name="upper", module=Half(), loss=lambda lower: lower.value.sum()),
    )
    lower, upper = trained_in(graph).values()
    assert lower == Trained(sizes=(3,), updates=4, statistics=(2,), itemsize=8, is_replicated=True)
    assert (upper.asked, upper.is_replicated) == (("lower",), False)


def test_a_truncated_solve_is_not_linear_so_never_replicated():
    def graph(response):
        return Graph(
            Problem(
                name="lower",
                module=nn.Linear(1, 1),
                loss=lambda lower, upper: (lower.weight * upper.weight).sum() ** 2,
                response=response,
            ),
            Problem(name="upper", module=nn.Linear(1, 1), loss=lambda lower: lower.weight.sum()),
        )

    assert not trained_in(graph(cg()))["lower"].is_replicated
    assert not trained_in(graph(finite_difference()))["lower"].is_replicated


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("call", ANSWERS)
def test_formulas_are_what_responses_do(call, steps):
    answer = ANSWERS[call]
    assert counted(answer.make(steps)) == answer.reductions(steps, communication.PARAMETERS)


def test_first_calls_that_differ_are_those_that_are_named():
    first = {call: counted(answer.make(5), calls=1) for call, answer in ANSWERS.items()}
    later = {call: counted(answer.make(5)) for call, answer in ANSWERS.items()}
    differ = {call: first[call] - later[call] for call in ANSWERS if first[call] != later[call]}
    assert differ == {'neumann(terms=K, rate="auto")': 6, "warm_started(steps=K)": -1}


def test_a_third_derivative_is_a_third_reduction():
    counter, x = Counter(), torch.ones(1, requires_grad=True)
    derivative = counter.copied(x) ** 4
    for order in (1, 2, 3):
        (derivative,) = torch.autograd.grad(derivative, x, create_graph=True)
        assert counter.reductions == order
    assert derivative.item() == 24


def test_the_exception_of_a_single_step():
    assert Reductions(steps=1, single=0)(1) == 0
    assert Reductions(steps=1)(1) == 1
    assert Reductions(parameters=1, constant=1)(7, 24) == 25


def test_every_response_has_a_row_and_formulas_agree(monkeypatch):
    def expected_of(programs):
        return {
            name: communication.expected_of_three_levels()
            if name == communication.GROUPING
            else expected(make(), name, communication.RUN_STEPS)
            for name, make in programs.items()
        }

    monkeypatch.setattr(communication, "measured", expected_of)
    rows = communication.run(QUICK).rows
    assert [row["response"] for row in rows] == [*ANSWERS, communication.GROUPING]
    for row in rows[:-1]:
        assert row["counted"] == row["reductions"]
    plain = rows[0]
    whole = 4 * (11689512 + 2 * 62) / 1e6
    assert plain["copies"] == 0
    # The cotangent is one message more than a gradient.
    assert plain["gradients (MB)"] == pytest.approx(5 * whole, rel=1e-4)
    assert plain["means (MB)"] == pytest.approx(whole, rel=1e-2)
