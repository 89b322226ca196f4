"""n rounds, a checkpoint, and m more rounds of a fresh engine are n + m rounds, bit for bit."""

import copy
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

import mlo
from mlo import Checkpoints, Clipping, Engine
from tests.stateful_programs import (
    PROGRAMS,
    SCHEDULERS,
    Augmented,
    Make,
    reweighting,
    run,
    same_losses,
    same_tree,
    saved,
    shuffled,
)

SEED, OTHER_SEED = 3, 11


def begun(make: Make) -> Engine:
    """Return an engine and set all generators, as a program does at its start."""
    engine = make(SEED)
    torch.manual_seed(SEED)
    random.seed(SEED)
    np.random.seed(SEED)
    return engine


def elsewhere(make: Make) -> Engine:
    """Return an engine of the same program whose modules and generators stand elsewhere."""
    engine = make(OTHER_SEED)
    torch.rand(17)
    random.gauss(0, 1)
    np.random.standard_normal(3)
    return engine


def check_resumed(make, first, more, path):
    """Assert the law for one program."""
    whole = begun(make)
    losses = run(whole, first + more)
    # With the state of the global generators, which move on.
    expected = copy.deepcopy(whole.state_dict())
    assert expected["round"] == first + more
    part = begun(make)
    before = run(part, first)
    state = saved(part, path)
    fresh = elsewhere(make)
    fresh.load_state_dict(state)
    after = run(fresh, more)
    assert same_losses(before + after, losses)
    assert same_tree(fresh.state_dict(), expected)


@pytest.mark.filterwarnings("ignore::mlo.ResponseWarning")
@pytest.mark.parametrize(("position", "name"), list(enumerate(PROGRAMS)), ids=list(PROGRAMS))
def test_every_kind_of_state(position, name, tmp_path):
    check_resumed(PROGRAMS[name], 1 + position % 4, 2, tmp_path / "state.mlo")


def rich(batch_size, accumulate, response):
    """Return a program with many kinds of state at once."""
    return reweighting(
        layers=lambda: [nn.BatchNorm1d(4), nn.Dropout(0.3)],
        loader=lambda: DataLoader(Augmented(), batch_size=batch_size, shuffle=True),
        response=response,
        accumulate=accumulate,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.01),
        scheduler=SCHEDULERS["one cycle"],
        upper={
            "warmup": 2,
            "clipping": Clipping(direct=0.1, indirect=0.1),
            "scheduler": SCHEDULERS["sequential"],
        },
    )


@given(
    first=st.integers(0, 6),
    more=st.integers(0, 3),
    batch_size=st.sampled_from([2, 4, 5, 10]),
    accumulate=st.integers(1, 3),
    response=st.sampled_from([mlo.warm_started(), mlo.unrolled(), mlo.finite_difference()]),
)
@settings(max_examples=8)
def test_any_number_of_rounds_before_and_after(first, more, batch_size, accumulate, response):
    with TemporaryDirectory() as directory:
        path = Path(directory) / "state.mlo"
        check_resumed(rich(batch_size, accumulate, response), first, more, path)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize(("first", "own_generator"), [(1, False), (2, True)])
def test_loaders_with_workers(first, own_generator, tmp_path):
    """Each epoch has 3 batches and each round takes 2: the first cut is within an epoch."""

    def loader():
        generator = torch.Generator() if own_generator else None
        return shuffled(Augmented(), num_workers=2, generator=generator)

    check_resumed(reweighting(loader=loader), first, 1, tmp_path / "state.mlo")


def test_saving_disturbs_nothing(tmp_path):
    make = rich(4, 2, mlo.warm_started())
    plain = begun(make)
    losses = run(plain, 6)
    expected = copy.deepcopy(plain.state_dict())
    saving, found = begun(make), []
    saving.run(
        6,
        checkpoints=Checkpoints(directory=tmp_path, every=1),
        callbacks=mlo.Callbacks(after_round=lambda done: found.append(done.losses)),
        show_progress=False,
    )
    assert same_losses(found, losses)
    assert same_tree(saving.state_dict(), expected)


def test_a_run_in_four_parts(tmp_path):
    make = rich(4, 1, mlo.unrolled())
    whole = begun(make)
    whole.run(8, show_progress=False)
    expected = copy.deepcopy(whole.state_dict())
    checkpoints = Checkpoints(directory=tmp_path, every=3, keep=1)
    for until in (1, 4, 6, 8):
        engine = begun(make) if until == 1 else elsewhere(make)
        engine.run(until=until, checkpoints=checkpoints, resume=True, show_progress=False)
        assert engine.round == until
    assert same_tree(engine.state_dict(), expected)


def test_what_is_trained_and_how_modules_run_changes_between_rounds(tmp_path):
    """A round of its own thaws a layer, another one puts the model into evaluation mode."""

    def turn(engine):
        model = engine.graph.problem("model").module
        if engine.round == 2:
            model[0].requires_grad_(True)
        if engine.round == 3:
            model.eval()

    def go(engine, rounds):
        for _ in range(rounds):
            turn(engine)
            engine.run(1, show_progress=False)

    make = reweighting(
        layers=lambda: [nn.BatchNorm1d(4), nn.Dropout(0.5)],
        freeze=True,
        # An optimizer that has known all parameters from the start.
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    )

    def with_all(seed):
        engine = make(seed)
        model = engine.graph.problem("model").module
        engine.optimizers["model"].add_param_group({"params": list(model[0].parameters())})
        return engine

    whole = begun(with_all)
    go(whole, 6)
    expected = copy.deepcopy(whole.state_dict())
    for first in range(1, 6):
        part = begun(with_all)
        go(part, first)
        state = saved(part, tmp_path / f"{first}.mlo")
        fresh = elsewhere(with_all)
        fresh.load_state_dict(state)
        go(fresh, 6 - first)
        assert same_tree(fresh.state_dict(), expected)
        assert not fresh.graph.problem("model").module.training


def test_resuming_draws_nothing_from_the_past_of_the_process(tmp_path):
    """What the process has drawn before it resumes makes no difference."""
    make = rich(4, 1, mlo.warm_started())
    part = begun(make)
    run(part, 3)
    state, found = saved(part, tmp_path / "state.mlo"), []
    for draws in (0, 5):
        torch.rand(draws)
        np.random.rand(draws)
        fresh = elsewhere(make)
        fresh.load_state_dict(state)
        found.append((run(fresh, 3), copy.deepcopy(fresh.state_dict())))
    assert same_losses(found[0][0], found[1][0])
    assert same_tree(found[0][1], found[1][1])


def test_a_state_may_be_loaded_again_and_again(tmp_path):
    """Going on from it does not change it."""
    make = rich(4, 1, mlo.warm_started())
    part = begun(make)
    run(part, 4)
    state = saved(part, tmp_path / "state.mlo")
    before = copy.deepcopy(state)
    engine, losses = elsewhere(make), []
    for _ in range(2):
        engine.load_state_dict(state)
        losses.append(run(engine, 3))
        assert same_tree(state, before)
    assert same_losses(*losses)
