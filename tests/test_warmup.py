"""Rounds at the start in which a problem is not updated, while those below it are."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlo
from mlo import BatchError, Engine, Graph, Problem, ProblemError
from tests.programs import Vector, same_bits, snapshot
from tests.replay.recording import Recording


def sgd(lr=0.1):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def program(warmup, steps=2, response=None):
    """Two levels with batches and schedulers; `warmup` by problem."""
    lower = Problem(
        name="x",
        module=Vector(0.5),
        loss=lambda x, a, batch: (x.value - a.value * batch).square().sum(),
        batches=[1.0, 2.0, 3.0],
        optimizer=sgd(),
        steps=steps,
        response=response or mlo.identity(),
    )
    upper = Problem(
        name="a",
        module=Vector(1.0),
        loss=lambda x, batch: (x.value - batch).square().sum(),
        batches=[0.1, 0.2, 0.3, 0.4],
        optimizer=sgd(),
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
    )
    problems = [replace(p, warmup=warmup.get(p.name, 0)) for p in (lower, upper)]
    return Graph(*problems)


@given(warmup=st.integers(0, 4), rounds=st.integers(1, 6), steps=st.integers(1, 3))
@settings(max_examples=25)
def test_the_upper_problem_waits_and_the_lower_one_does_not(warmup, rounds, steps):
    graph = program({"a": warmup}, steps)
    engine = Engine(graph, device="cpu")
    counts = dict.fromkeys("xa", 0)
    for name in counts:

        def count(*_, name=name):
            counts[name] += 1

        engine.optimizers[name].register_step_post_hook(count)
    for number, done in enumerate(engine.rounds(rounds), start=1):
        waits = number <= warmup
        assert list(done.losses) == (["x"] if waits else ["x", "a"])
        assert done.warming == (("a",) if waits else ())
        assert ("a" in done.outcomes) != waits
        assert (graph.problem("a").module.value.item() == 1.0) == waits
    assert counts == {"x": rounds * steps, "a": max(0, rounds - warmup)}
    # Neither its scheduler nor its loader has moved.
    assert engine.schedulers["a"].last_epoch == max(0, rounds - warmup)


def test_after_its_warm_up_a_run_goes_on_as_one_that_starts_there():
    waiting = program({"a": 3})
    engine = Engine(waiting, device="cpu")
    engine.run(3, show_progress=False)
    fresh = program({})
    with torch.no_grad():
        fresh.problem("x").module.value.copy_(waiting.problem("x").module.value)
    other = Engine(fresh, device="cpu")
    for each in (engine, other):
        each.run(4, show_progress=False)
    assert same_bits(snapshot(waiting), snapshot(fresh))


def test_no_warm_up_is_none_at_all():
    graphs = [program({}), program({"x": 0, "a": 0})]
    for graph in graphs:
        Engine(graph, device="cpu").run(3, show_progress=False)
    assert same_bits(*map(snapshot, graphs))


def test_an_update_out_of_its_turn_is_made_all_the_same():
    engine = Engine(program({"x": 5}), device="cpu")
    assert float(engine.update("x").loss) == 0.25


def test_the_levels_of_three_wait_each_for_themselves():
    def loss_of(name, *reads):
        def loss(**modules):
            return sum((modules[name].value - modules[r].value).square().sum() for r in reads)

        return loss

    graph = Graph(
        Problem(name="t", module=Vector(0.1), loss=loss_of("t", "c"), reads=("t", "c")),
        Problem(name="s", module=Vector(0.2), loss=loss_of("s", "t"), reads=("s", "t"), warmup=1),
        Problem(
            name="c", module=Vector(0.3), loss=loss_of("c", "s"), reads=("c", "s", "t"), warmup=3
        ),
    )
    graph = Graph(*(replace(p, optimizer=sgd()) for p in graph.problems.values()))
    updated = [list(done.losses) for done in Engine(graph, device="cpu").rounds(4)]
    assert updated == [["t"], ["t", "s"], ["t", "s"], ["t", "s", "c"]]


@pytest.mark.parametrize("steps", [1, 3])
def test_recorded_updates_are_those_of_the_round(steps):
    """While the upper problem waits, each round is a block of its own."""
    engine = Engine(program({"a": 2}, steps, mlo.unrolled()), device="cpu")
    for done in engine.rounds(4):
        for outcome in done.outcomes.get("a", {}).values():
            assert "made again" not in outcome.message
    history = engine._recorders["x"].history
    assert len(history.updates) == steps


def test_an_upper_problem_cannot_be_differentiated_through_one_that_still_waits():
    engine = Engine(program({"x": 2}), device="cpu")
    with pytest.raises(
        BatchError, match="problem 'a': it is differentiated through 'x', which has"
    ):
        engine.run(1, show_progress=False)
    assert engine.round == 0


def test_captured_rounds_cannot_wait():
    graph = program({"a": 2})
    problems = [replace(p, scheduler=None) for p in graph.problems.values()]
    with pytest.raises(ProblemError, match="problem 'a': a captured round takes warmup=0, got 2"):
        Engine(Graph(*problems), device="cpu", cuda_graph=Recording())


@pytest.mark.parametrize("value", [-1, 1.0, True, None, "3"])
def test_a_warm_up_that_cannot_be(value):
    with pytest.raises(ProblemError, match="problem 'x': warmup must be an integer >= 0, got"):
        Problem(name="x", module=Vector(1.0), loss=lambda x: x.value.sum(), warmup=value)
