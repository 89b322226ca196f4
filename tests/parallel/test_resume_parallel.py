"""A run goes on from its state on another number of ranks, also when a rank has been killed."""

import os
import signal
from pathlib import Path

import pytest
import torch

import mlo
from mlo.parallel.launch import joined
from tests.parallel.launching import job, on_ranks
from tests.parallel.programs import PROGRAMS, Trained, largest_error

# With states of optimizers, and of a solver that goes on from its last answer.
PROGRAM = "bilevel, warm_started"
ROUNDS = 9
KILLED_IN = 6


def engine_of(ranks):
    torch.manual_seed(0)
    return mlo.Engine(PROGRAMS[PROGRAM](), device="cpu", ranks=ranks)


def made(engine, losses):
    return Trained(
        state={
            f"{name}.{key}": tensor.detach().clone()
            for name, problem in engine.graph.problems.items()
            for key, tensor in problem.module.state_dict().items()
        },
        losses=losses,
        round=None,
    )


def undisturbed(rounds):
    engine = engine_of(None)
    losses = [done.losses for done in engine.rounds(rounds)]
    return made(engine, losses[-1:])


def part(ranks, state, rounds):
    engine = engine_of(ranks)
    if state is not None:
        engine.load_state_dict(state)
    losses = [done.losses for done in engine.rounds(rounds)]
    return engine.state_dict(), made(engine, losses[-1:])


@pytest.mark.parametrize("sizes", [(2, 1, 3)], ids=str)
def test_a_state_is_gone_on_with_on_another_number_of_ranks(sizes):
    state = None
    for number, size in enumerate(sizes, 1):
        answers = on_ranks(part, size, state, 3)
        state = answers[0][0]
        expected = undisturbed(3 * number)
        for _, found in answers:
            assert largest_error(found, expected) <= 1e-10


def run(folder, dies):
    checkpoints = mlo.Checkpoints(directory=Path(folder, "checkpoints"), every=2)
    with joined("cpu", patience=2.0) as ranks:

        def die(done):
            if dies and ranks.rank == 1 and done.number == KILLED_IN - 1:
                os.kill(os.getpid(), signal.SIGKILL)

        engine = engine_of(ranks)
        last = engine.run(
            until=ROUNDS,
            checkpoints=checkpoints,
            resume=True,
            callbacks=mlo.Callbacks(after_round=die),
            show_progress=False,
        )
        if ranks.rank == 0:
            torch.save(made(engine, [last.losses]), Path(folder, "found.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 3), (3, 2)], ids=str)
def test_a_run_goes_on_after_a_rank_was_killed(tmp_path, sizes):
    before, after = sizes
    endings = job(run, before, str(tmp_path), True)
    assert "rank 1 died (no heartbeat for 2 s)" in endings[0].errors
    assert [ending.code for ending in endings] == [1, -signal.SIGKILL, *[1] * (before - 2)]
    # Nothing but the rounds since the last checkpoint is lost, and nothing is half-written.
    kept = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert kept == ["round-000000002.mlo", "round-000000004.mlo"]
    assert [ending.code for ending in job(run, after, str(tmp_path), False)] == [0] * after
    found = Trained(*torch.load(tmp_path / "found.pt", weights_only=False))
    assert largest_error(found, undisturbed(ROUNDS)) <= 1e-10
