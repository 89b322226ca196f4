"""What is called while an engine runs: when, with what, and what a mistake in it does."""

from dataclasses import replace

import pytest
import torch

import mlo
from mlo import Callbacks, Checkpoints, Engine, Graph, MloError, Problem
from tests.programs import Vector, same_bits, snapshot


def sgd(lr=0.1):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def program():
    return Graph(
        Problem(
            name="x",
            module=Vector(0.5),
            loss=lambda x, a: (x.value - a.value).square().sum(),
            optimizer=sgd(),
            steps=2,
            response=mlo.identity(),
        ),
        Problem(
            name="a",
            module=Vector(1.0),
            loss=lambda x: (x.value - 3).square().sum(),
            optimizer=sgd(),
        ),
    )


def recording(log):
    return Callbacks(
        after_update=lambda name, swept: log.append(("update", name)),
        after_round=lambda done: log.append(("round", done.number)),
        after_checkpoint=lambda path: log.append(("checkpoint", path.name)),
    )


def test_they_are_called_in_the_order_of_what_happens(tmp_path):
    log = []
    Engine(program(), device="cpu").run(
        3,
        callbacks=recording(log),
        checkpoints=Checkpoints(directory=tmp_path, every=2),
        show_progress=False,
    )
    updates = [("update", "x"), ("update", "x"), ("update", "a")]
    assert log == [
        *updates,
        ("round", 1),
        *updates,
        ("round", 2),
        ("checkpoint", "round-000000002.mlo"),
        *updates,
        ("round", 3),
        ("checkpoint", "round-000000003.mlo"),
    ]


def test_an_update_is_told_with_the_gradient_that_was_applied():
    graph, seen = program(), []
    values = {n: p.module.value for n, p in graph.problems.items()}
    before = {n: v.detach().clone() for n, v in values.items()}

    def check(name, swept):
        moved = values[name].detach()
        assert torch.allclose(before[name] - 0.1 * swept.gradient["value"], moved, rtol=1e-15)
        assert list(swept.outcomes) == (["x"] if name == "a" else [])
        before[name] = moved.clone()
        seen.append(name)

    Engine(graph, device="cpu").run(2, callbacks=Callbacks(after_update=check), show_progress=False)
    assert seen == ["x", "x", "a"] * 2


def test_a_round_is_told_as_it_is_returned():
    rounds = []
    last = Engine(program(), device="cpu").run(
        3, callbacks=Callbacks(after_round=rounds.append), show_progress=False
    )
    assert [done.number for done in rounds] == [1, 2, 3]
    assert rounds[-1] is last
    assert list(last.losses) == ["x", "a"]


def test_a_checkpoint_is_on_disk_when_it_is_told(tmp_path):
    checkpoints = Checkpoints(directory=tmp_path, every=1)
    engine, rounds = Engine(program(), device="cpu"), []
    engine.run(
        2,
        checkpoints=checkpoints,
        callbacks=Callbacks(
            after_checkpoint=lambda path: rounds.append(checkpoints.load(path).round)
        ),
        show_progress=False,
    )
    assert rounds == [1, 2]


def test_what_a_callback_changes_after_a_round_is_part_of_the_checkpoint(tmp_path):
    graph = program()

    def set_to_seven(done):
        with torch.no_grad():
            graph.problem("x").module.value.fill_(7.0)

    checkpoints = Checkpoints(directory=tmp_path)
    Engine(graph, device="cpu").run(
        1,
        checkpoints=checkpoints,
        callbacks=Callbacks(after_round=set_to_seven),
        show_progress=False,
    )
    other = program()
    Engine(other, device="cpu").load_state_dict(checkpoints.load().state["engine"])
    assert other.problem("x").module.value.item() == 7.0


def test_callbacks_that_only_look_change_no_bit():
    graphs = [program(), program()]
    for graph, callbacks in zip(graphs, (recording([]), Callbacks()), strict=True):
        Engine(graph, device="cpu").run(3, callbacks=callbacks, show_progress=False)
    assert same_bits(*map(snapshot, graphs))


class MistakeError(Exception):
    pass


@pytest.mark.parametrize("field", ["after_update", "after_round", "after_checkpoint"])
def test_an_exception_ends_the_run_and_leaves_the_engine_usable(field, tmp_path):
    def raising(*_):
        raise MistakeError

    engine = Engine(program(), device="cpu")
    checkpoints = Checkpoints(directory=tmp_path, every=1)
    callbacks = Callbacks(**{field: raising})
    with pytest.raises(MistakeError):
        engine.run(3, callbacks=callbacks, checkpoints=checkpoints, show_progress=False)
    # A round that was broken off has not happened.
    assert engine.round == (0 if field == "after_update" else 1)
    assert engine.after_update is None
    done = engine.run(2, show_progress=False)
    assert done.number == engine.round
    assert all(torch.isfinite(loss) for loss in done.losses.values())


def test_the_engines_own_hook_is_back_after_the_run():
    own, given = [], []
    engine = Engine(program(), device="cpu")
    hook = engine.after_update = lambda name, swept: own.append(name)
    engine.run(1, show_progress=False)
    assert own == ["x", "x", "a"]
    callbacks = Callbacks(after_update=lambda name, swept: given.append(name))
    engine.run(1, callbacks=callbacks, show_progress=False)
    assert (own, given) == (["x", "x", "a"], ["x", "x", "a"])
    assert engine.after_update is hook


@pytest.mark.parametrize("name", ["after_updates", "on_round", "after_epoch", "afterround"])
def test_a_misspelt_name_is_an_error_at_once(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        Callbacks(**{name: print})


@pytest.mark.parametrize("field", ["after_update", "after_round", "after_checkpoint"])
@pytest.mark.parametrize("value", [1, "print", [print]])
def test_what_is_no_function(field, value):
    with pytest.raises(MloError, match=f"^callbacks: {field} must be a function or None, got "):
        Callbacks(**{field: value})


@pytest.mark.parametrize("value", [print, {"after_round": print}, None])
def test_what_are_no_callbacks(value):
    engine = Engine(program(), device="cpu")
    with pytest.raises(MloError, match=r"^callbacks must be mlo.Callbacks\(...\), got "):
        engine.run(1, callbacks=value)
    assert engine.round == 0


def test_they_are_frozen():
    callbacks = Callbacks(after_round=print)
    with pytest.raises(AttributeError):
        callbacks.after_round = None
    assert replace(callbacks, after_round=None) == Callbacks()
