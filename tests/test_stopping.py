"""Stopping before the last round: laws of `EarlyStopping`, and what a resumed run makes of it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlo
from mlo import Checkpoints, EarlyStopping, Engine, Graph, MloError, Problem, Round
from mlo.stopping import Remembers
from tests.programs import Vector, same_bits, snapshot


def round_of(number, loss, **options):
    return Round(number=number, losses={"model": torch.tensor(loss)}, outcomes={}, **options)


def stops_at(values, patience, every, min_change):
    """Return the round after which to stop, None for never, the best value and its round.

    A plain second implementation: after each look it searches the whole past.
    """
    looks = [(r, v) for r, v in enumerate(values, start=1) if r % every == 0]
    best, best_round, waited = math.inf, 0, 0
    for number, value in looks:
        if value < best - min_change:
            best, best_round, waited = value, number, 0
        else:
            waited += 1
        if waited >= patience:
            return number, best, best_round
    return None, best, best_round


values = st.lists(
    st.floats(-5, 5) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0]), max_size=30
)
settings_of = {
    "patience": st.integers(1, 5),
    "every": st.integers(1, 4),
    "min_change": st.sampled_from([0.0, 0.1, 1.0]),
}


@given(values=values, **settings_of)
@settings(max_examples=50)
def test_it_stops_where_the_reference_stops(values, patience, every, min_change):
    given = iter(values)
    stopping = EarlyStopping(
        lambda done: values[done.number - 1],
        patience=patience,
        every=every,
        min_change=min_change,
    )
    stopped = None
    for number in range(1, len(list(given)) + 1):
        if stopping(round_of(number, 0.0)):
            stopped = number
            break
    expected = stops_at(values, patience, every, min_change)
    assert (stopped, stopping.best, stopping.best_round) == expected


@given(values=values, cut=st.integers(0, 30), **settings_of)
@settings(max_examples=50)
def test_its_state_is_all_that_it_remembers(values, cut, patience, every, min_change):
    def make():
        return EarlyStopping(
            lambda done: values[done.number - 1],
            patience=patience,
            every=every,
            min_change=min_change,
        )

    whole, first, second = make(), make(), make()
    verdicts = [whole(round_of(n, 0.0)) for n in range(1, len(values) + 1)]
    before = [first(round_of(n, 0.0)) for n in range(1, min(cut, len(values)) + 1)]
    second.load_state_dict(first.state_dict())
    after = [second(round_of(n, 0.0)) for n in range(len(before) + 1, len(values) + 1)]
    assert before + after == verdicts
    assert second.state_dict() == whole.state_dict()


@given(values=st.lists(st.integers(-99, 99), max_size=20, unique=True), patience=st.integers(1, 5))
@settings(max_examples=50)
def test_what_always_falls_is_never_stopped(values, patience):
    stopping = EarlyStopping("model", patience=patience)
    falling = sorted(values, reverse=True)
    assert not any(stopping(round_of(n, v)) for n, v in enumerate(falling, start=1))


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=20), shift=st.integers(-3, 3))
@settings(max_examples=50)
def test_only_differences_count(values, shift):
    stops = []
    for moved in (values, [v + shift for v in values]):
        stopping = EarlyStopping(
            lambda done, moved=moved: round(moved[done.number - 1], 3), patience=2
        )
        stops.append([stopping(round_of(n, 0.0)) for n in range(1, len(moved) + 1)])
    if all(round(v + shift, 3) == round(v, 3) + shift for v in values):
        assert stops[0] == stops[1]


def test_a_change_of_just_min_change_is_none():
    stopping = EarlyStopping("model", patience=1, min_change=0.5)
    assert [stopping(round_of(n, v)) for n, v in enumerate([2.0, 1.25, 0.75], start=1)] == [
        False,
        False,
        True,
    ]
    assert (stopping.best, stopping.best_round) == (1.25, 2)


def test_a_skipped_update_and_a_warm_up_are_not_looked_at():
    stopping = EarlyStopping("model", patience=2)
    assert not stopping(round_of(1, 1.0))
    for number in range(2, 6):
        assert not stopping(round_of(number, math.nan, skipped=("model",)))
    waiting = Round(number=6, losses={}, outcomes={}, warming=("model",))
    assert not stopping(waiting)
    assert stopping.state_dict() == {"best": 1.0, "best_round": 1, "waited": 0}
    assert not stopping(round_of(7, 2.0))
    assert stopping(round_of(8, 2.0))


def test_a_skipped_update_that_was_made_up_for_is_looked_at():
    stopping = EarlyStopping("model", patience=1)
    stopping(round_of(1, 1.0))
    assert stopping(round_of(2, 2.0, skipped=("model",)))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
@pytest.mark.parametrize("field", ["patience", "every"])
def test_a_count_that_cannot_be(field, value):
    with pytest.raises(MloError, match=f"^early stopping: {field} must be an integer >= 1, got"):
        EarlyStopping("model", **{"patience": 1, field: value})


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan, "1", None])
def test_a_change_that_cannot_be(value):
    with pytest.raises(MloError, match=r"^early stopping: min_change must be >= 0, got"):
        EarlyStopping("model", patience=1, min_change=value)


@pytest.mark.parametrize("value", [1, None, ["model"]])
def test_a_measure_that_cannot_be(value):
    with pytest.raises(
        MloError, match=r"^early stopping: measure must be the name of a problem or"
    ):
        EarlyStopping(value, patience=1)


def test_a_misspelt_problem():
    stopping = EarlyStopping("modle", patience=1)
    message = r"^early stopping: no problem 'modle' has made an update.*did you mean 'model'\?"
    with pytest.raises(MloError, match=message):
        stopping(round_of(1, 1.0))


@pytest.mark.parametrize("value", [None, "low", torch.ones(2), [1.0]])
def test_a_measure_that_gives_no_number(value):
    stopping = EarlyStopping(lambda done: value, patience=1)
    with pytest.raises(
        MloError, match=r"^early stopping: the function of a round must give a numb"
    ):
        stopping(round_of(1, 1.0))


# In a run


def bouncing():
    """A loss of 4, 1, 4, 1, ...: it falls for the last time in the second round."""
    return Graph(
        Problem(
            name="x",
            module=Vector(2.0),
            loss=lambda x, batch: (x.value * batch).square().sum(),
            batches=[1.0, 0.5],
            optimizer=lambda p: torch.optim.Adam(p, lr=1e-9),
        )
    )


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_run_stops_and_returns_its_last_round(checkpointed, tmp_path):
    engine = Engine(bouncing(), device="cpu")
    checkpoints = Checkpoints(directory=tmp_path, every=100) if checkpointed else None
    last = engine.run(
        50,
        stopping=EarlyStopping("x", patience=3, min_change=0.01),
        checkpoints=checkpoints,
        show_progress=False,
    )
    assert last.number == engine.round == 5
    if checkpoints is not None:
        found = checkpoints.load()
        assert (found.round, found.state["stopped"]) == (5, True)


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_resumed_run_stops_at_the_same_round(cut, tmp_path):
    """Eight rounds: the best is the second, six more without improvement."""

    def stopping():
        return EarlyStopping("x", patience=6, min_change=0.01)

    whole = Engine(bouncing(), device="cpu")
    assert whole.run(50, stopping=stopping(), show_progress=False).number == 8
    checkpoints = Checkpoints(directory=tmp_path, every=1)
    options = {"checkpoints": checkpoints, "show_progress": False}
    Engine(bouncing(), device="cpu").run(cut, stopping=stopping(), **options)
    resumed = Engine(bouncing(), device="cpu")
    last = resumed.run(until=50, stopping=stopping(), resume=True, **options)
    assert last.number == 8
    assert same_bits(snapshot(resumed.graph), snapshot(whole.graph))


def test_a_run_that_had_stopped_does_nothing_when_it_is_resumed(tmp_path):
    checkpoints = Checkpoints(directory=tmp_path)
    options = {"checkpoints": checkpoints, "show_progress": False}
    first = Engine(bouncing(), device="cpu")
    first.run(50, stopping=EarlyStopping("x", patience=1, min_change=0.01), **options)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    second, called = Engine(bouncing(), device="cpu"), []
    last = second.run(
        until=50,
        stopping=EarlyStopping("x", patience=1, min_change=0.01),
        callbacks=mlo.Callbacks(after_round=called.append),
        resume=True,
        **options,
    )
    assert (last.number, second.round, called) == (3, 3, [])
    assert same_bits(snapshot(second.graph), snapshot(first.graph))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_any_function_stops_a_run():
    engine = Engine(bouncing(), device="cpu")
    assert engine.run(50, stopping=lambda done: done.number == 4, show_progress=False).number == 4
    # What is true in Python will do.
    numbers = itertools.chain([[], None, 0, torch.tensor(False)], itertools.repeat([1]))
    assert engine.run(50, stopping=lambda done: next(numbers), show_progress=False).number == 9


def test_a_function_whose_verdict_is_no_plain_data_can_be_saved(tmp_path):
    checkpoints = Checkpoints(directory=tmp_path)
    Engine(bouncing(), device="cpu").run(
        5, stopping=lambda done: {object()}, checkpoints=checkpoints, show_progress=False
    )
    assert checkpoints.load().state["stopped"] is True


def test_which_stopping_remembers():
    assert isinstance(EarlyStopping("x", patience=1), Remembers)
    assert not isinstance(lambda done: False, Remembers)


def test_the_name_of_a_problem_is_checked_before_the_first_round():
    engine = Engine(bouncing(), device="cpu")
    with pytest.raises(
        MloError, match=r"^early stopping: there is no problem 'y', expected one of"
    ):
        engine.run(500, stopping=EarlyStopping("y", patience=1, every=100), show_progress=False)
    assert engine.round == 0


@pytest.mark.parametrize("value", [3, "x", [EarlyStopping("x", patience=1)]])
def test_what_can_not_stop(value):
    with pytest.raises(MloError, match=r"^stopping must be mlo.EarlyStopping\(...\) or a function"):
        Engine(bouncing(), device="cpu").run(1, stopping=value)


def test_a_problem_that_warms_up_may_be_what_stops_the_run():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(0.5),
            loss=lambda x, a: (x.value - a.value).square().sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            response=mlo.identity(),
        ),
        Problem(
            name="a",
            module=Vector(1.0),
            loss=lambda x: (x.value + 9).square().sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=1e-12),
        ),
    )
    graph = Graph(graph.problem("x"), replace(graph.problem("a"), warmup=3))
    last = Engine(graph, device="cpu").run(
        20, stopping=EarlyStopping("a", patience=2), show_progress=False
    )
    assert last.number == 6


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("is_then", [False, True])
def test_stopping_early_may_be_added_or_taken_away(is_first, is_then, tmp_path):
    first = EarlyStopping("x", patience=9) if is_first else None
    then = EarlyStopping("x", patience=1, min_change=math.pi) if is_then else None
    options = {"checkpoints": Checkpoints(directory=tmp_path), "show_progress": False}
    Engine(bouncing(), device="cpu").run(3, stopping=first, **options)
    engine = Engine(bouncing(), device="cpu")
    last = engine.run(until=9, stopping=then, resume=True, **options)
    # The best so far is remembered, or the next round is the first that is looked at.
    stops_at = 5 if first is None else 4
    assert last.number == (9 if then is None else stops_at)
