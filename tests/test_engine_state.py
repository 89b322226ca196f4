"""The state of an engine: what fits it, what does not, and that a misfit changes nothing."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

import mlo
from mlo import Autocast, CheckpointError, Engine, Graph
from tests.stateful_programs import (
    SCHEDULERS,
    Counting,
    reweighting,
    rows,
    run,
    same_losses,
    same_tree,
)

RICH = reweighting(
    layers=lambda: [nn.BatchNorm1d(4), nn.Dropout(0.3)],
    response=mlo.warm_started(),
    optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
    scheduler=SCHEDULERS["step"],
    engine=lambda: {
        "also": {"counter": Counting()},
        "autocast": Autocast(dtype=torch.float16, initial_scale=8.0),
    },
)


def frozen_copy(state):
    return copy.deepcopy(state)


def check_refused(engine, state, message):
    """Assert that the engine refuses the state in one line and goes on as if it had not seen it."""
    before = frozen_copy(engine.state_dict())
    parameters = [id(p) for q in engine.graph.problems.values() for p in q.module.parameters()]
    with pytest.raises(CheckpointError, match=message) as caught:
        engine.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert same_tree(engine.state_dict(), before)
    assert parameters == [
        id(p) for q in engine.graph.problems.values() for p in q.module.parameters()
    ]
    losses = run(engine, 2)
    engine.load_state_dict(before)
    assert same_losses(losses, run(engine, 2))


def after(make, rounds=3, seed=0):
    engine = make(seed)
    torch.manual_seed(seed)
    run(engine, rounds)
    return engine


def test_a_state_that_was_taken_goes_back():
    engine = after(RICH)
    state = frozen_copy(engine.state_dict())
    first = run(engine, 3)
    engine.load_state_dict(state)
    assert engine.round == 3
    assert same_tree(engine.state_dict(), state)
    assert same_losses(run(engine, 3), first)


def test_two_engines_share_no_memory():
    """Though a state is not copied when it is taken, it is when it is loaded."""
    first, second = after(RICH), RICH(1)
    second.load_state_dict(first.state_dict())
    before = frozen_copy(second.state_dict())
    run(first, 2)
    now = second.state_dict()
    assert same_tree(now["memories"], before["memories"])
    for part in ("module", "optimizer", "scheduler"):
        for name, problem in now["problems"].items():
            assert same_tree(problem[part], before["problems"][name][part])


def test_parameters_and_schedulers_keep_their_identity():
    """Optimizers hold the parameters themselves, and schedulers the optimizer."""
    engine = after(RICH)
    parameters = list(engine.graph.problem("model").module.parameters())
    engine.load_state_dict(frozen_copy(after(RICH, 2, seed=5).state_dict()))
    optimizer = engine.optimizers["model"]
    assert all(
        held is parameter
        for held, parameter in zip(optimizer.param_groups[0]["params"], parameters, strict=True)
    )
    assert engine.schedulers["model"].optimizer is optimizer
    assert all(p in optimizer.state for p in parameters)


def test_the_state_of_another_kind_of_device_leaves_its_generator_out():
    engine = after(RICH)
    state = frozen_copy(engine.state_dict())
    state["random"][0] |= {"device_type": "cuda", "device": torch.zeros(16, dtype=torch.uint8)}
    expected = run(engine, 2)
    engine.load_state_dict(state)
    assert same_losses(run(engine, 2), expected)


def test_options_that_a_later_torch_has_added_keep_their_values():
    engine = after(reweighting(optimizer=lambda p: torch.optim.Adam(p, lr=0.05)))
    state = frozen_copy(engine.state_dict())
    del state["problems"]["model"]["optimizer"]["param_groups"][0]["decoupled_weight_decay"]
    expected = run(engine, 2)
    engine.load_state_dict(state)
    assert same_losses(run(engine, 2), expected)


# States of other programs


def renamed(seed):
    graph = reweighting()(seed).graph
    other = replace(
        graph.problem("weights"),
        name="wieghts",
        loss=lambda model, batch: graph.problem("weights").loss(model=model, batch=batch),
    )
    model = replace(
        graph.problem("model"),
        loss=lambda model, wieghts, batch: graph.problem("model").loss(
            model=model, weights=wieghts, batch=batch
        ),
    )
    return Engine(Graph(model, other), device="cpu")


class Refusing(Counting):
    """Refuses any state but its first."""

    def load_state_dict(self, state):
        if state["count"] != 0:
            raise OSError("no such\ncounter")


def with_also(**also):
    return reweighting(engine=lambda: {"also": also})


def counted(seed):
    engine = with_also(counter=Counting())(seed)
    engine._also["counter"].count = 7
    return engine


PLAIN = reweighting()
MISFITS = {
    "a renamed problem": (
        renamed,
        PLAIN,
        r"problems: the checkpoint has 'wieghts', which the program has not; it has \('model', "
        r"'weights'\) \(did you mean 'weights'\?\)",
    ),
    "another dtype": (
        reweighting(dtype=torch.float32),
        PLAIN,
        r"problem 'model': parameter '0.weight' is torch.float32 of shape \(4, 3\) in the "
        r"checkpoint, expected torch.float64 of shape \(4, 3\) as in the program",
    ),
    "a layer more": (
        reweighting(layers=lambda: [nn.Linear(4, 4)]),
        PLAIN,
        "problem 'model': parameters: the checkpoint has '1.weight', which the program has not",
    ),
    "a layer less": (
        PLAIN,
        reweighting(layers=lambda: [nn.Linear(4, 4)]),
        "problem 'model': parameters: the program has '3.weight', which the checkpoint has not"
        "|problem 'model': parameters: the checkpoint has '2.weight', which the program has not",
    ),
    "running statistics": (
        PLAIN,
        reweighting(layers=lambda: [nn.BatchNorm1d(4, affine=False)]),
        "problem 'model': parameters: the checkpoint has '2.weight', which the program has not",
    ),
    "another optimizer": (
        reweighting(optimizer=lambda p: torch.optim.RMSprop(p, lr=0.1)),
        PLAIN,
        "problem 'model': its optimizer was 'RMSprop', now it is 'SGD'",
    ),
    "a like optimizer": (
        reweighting(optimizer=lambda p: torch.optim.AdamW(p, lr=0.1)),
        reweighting(optimizer=lambda p: torch.optim.Adam(p, lr=0.1)),
        "problem 'model': its optimizer was 'AdamW', now it is 'Adam'",
    ),
    "other groups": (
        reweighting(
            optimizer=lambda p: torch.optim.SGD([{"params": p[:1]}, {"params": p[1:]}], lr=0.1)
        ),
        PLAIN,
        r"problem 'model': the optimizer of the checkpoint has groups of \[1, 3\] parameters, that "
        r"of the program of \[4\]",
    ),
    "a scheduler more": (
        reweighting(scheduler=SCHEDULERS["step"]),
        PLAIN,
        "problem 'model': the checkpoint has a scheduler, which the program has not",
    ),
    "a scheduler less": (
        PLAIN,
        reweighting(scheduler=SCHEDULERS["step"]),
        "problem 'model': the program has a scheduler, which the checkpoint has not",
    ),
    "another scheduler": (
        reweighting(scheduler=SCHEDULERS["step"]),
        reweighting(scheduler=SCHEDULERS["cosine"]),
        "problem 'model': its scheduler was 'StepLR', now it is 'CosineAnnealingLR'",
    ),
    "a loss scale": (
        reweighting(engine=lambda: {"autocast": Autocast(dtype=torch.float16)}),
        PLAIN,
        "problem 'model': the checkpoint has a scale, which the program has not",
    ),
    "another loader": (
        PLAIN,
        reweighting(loader=lambda: [rows(4)]),
        "problem 'model': ",
    ),
    "a shorter loader": (
        reweighting(loader=lambda: [rows(4)] * 9),
        reweighting(loader=lambda: [rows(4)] * 3),
        "problem 'model': ",
    ),
    "an object more": (
        with_also(counter=Counting()),
        PLAIN,
        "also: the checkpoint has 'counter', which the program has not",
    ),
    "a misspelt object": (
        with_also(counter=Counting()),
        with_also(conuter=Counting()),
        r"also: the checkpoint has 'counter', which .* \(did you mean 'conuter'\?\)",
    ),
    "an object that refuses": (
        counted,
        with_also(counter=Refusing()),
        "it is not the state of this engine: OSError: no such$",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("rounds", [0, 2])
def test_the_state_of_another_program(misfit, rounds):
    theirs, ours, message = MISFITS[misfit]
    state = frozen_copy(after(theirs).state_dict())
    check_refused(after(ours, rounds, seed=1), state, f"^{message}")


def test_a_buffer_less():
    state = frozen_copy(after(reweighting(layers=lambda: [nn.BatchNorm1d(4)])).state_dict())
    del state["problems"]["model"]["module"]["buffers"]["1.running_mean"]
    engine = after(reweighting(layers=lambda: [nn.BatchNorm1d(4)]), seed=1)
    message = "problem 'model': buffers: the program has '1.running_mean', which the checkpoint has"
    check_refused(engine, state, message)


@pytest.mark.parametrize(
    "state",
    [None, 5, "text", [], {}, {"problems": {}}, {"problems": None, "also": None, "round": 1}],
    ids=repr,
)
def test_what_is_no_state_at_all(state):
    check_refused(after(RICH), state, r"^(it is not the state of this engine|problems): ")


# States with a fault


def paths_of(tree, path=()):
    """Yield the paths of all nodes of a tree, but for the long insides of random states."""
    yield path
    if isinstance(tree, dict | list | tuple) and len(tree) < 30:
        for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from paths_of(item, (*path, key))


def replaced(tree, path, value):
    """Return the tree with a node replaced, or taken out if the value is `...`."""
    if not path:
        return {} if value is ... else value
    key, *rest = path
    if isinstance(tree, dict):
        changed = dict(tree)
        if value is ... and not rest:
            del changed[key]
        else:
            changed[key] = replaced(tree[key], rest, value)
        return changed
    items = list(tree)
    items[key : key + 1] = [] if value is ... and not rest else [replaced(tree[key], rest, value)]
    return type(tree)(items)


@functools.cache
def sound_state():
    return frozen_copy(after(RICH).state_dict())


@given(data=st.data())
@settings(max_examples=40)
def test_a_fault_anywhere_is_refused_as_a_whole_if_it_is_refused(data):
    state = sound_state()
    path = data.draw(st.sampled_from(sorted(paths_of(state), key=repr)))
    value = data.draw(
        st.sampled_from([..., None, -1, 10**30, "x", [], {}, {"a": 1}, torch.zeros(3), 0.5])
    )
    engine = after(RICH, 1, seed=2)
    before = frozen_copy(engine.state_dict())
    error = None
    try:
        engine.load_state_dict(replaced(state, path, value))
    except CheckpointError as caught:
        error = caught
    if error is not None:
        assert "\n" not in str(error)
        assert same_tree(engine.state_dict(), before)
        run(engine, 1)


def test_a_fault_that_shows_late_is_undone():
    """The random state is set last of all."""
    state = replaced(sound_state(), ("random", 0, "torch"), torch.zeros(3, dtype=torch.uint8))
    check_refused(after(RICH, 2, seed=1), state, "^it is not the state of this engine: RuntimeErr")


def test_a_fault_within_an_epoch_is_undone():
    """The loader of the engine stands where it stood, in the middle of an epoch."""
    make = reweighting(loader=lambda: DataLoader(list(zip(*rows(), strict=True)), batch_size=2))
    engine = after(make, 1, seed=1)
    state = replaced(after(make, 2).state_dict(), ("also",), {"x": 1})
    check_refused(engine, state, "^also: the checkpoint has 'x'")
    state = replaced(after(make, 2).state_dict(), ("random", 0, "numpy"), {"state": None})
    check_refused(engine, frozen_copy(state), "^it is not the state of this engine: ")
