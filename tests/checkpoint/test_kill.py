"""A process that is killed while it saves leaves whole checkpoints, and all that it reported."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from mlo.atomic import target_of
from mlo.checkpoint.checkpoints import Checkpoints

FIRST, COUNT = 1000, 200_000


def state_of(round: int) -> dict[str, object]:
    """Return a state by which a mixture of two of them would be seen."""
    return {
        "round": round,
        "many": [torch.full((100,), float(round)) for _ in range(20)],
        "large": torch.full((COUNT,), float(round)),
    }


def is_of(state: dict[str, object], round: int) -> bool:
    expected = state_of(round)
    return (
        state["round"] == round
        and torch.equal(state["large"], expected["large"])
        and all(torch.equal(a, b) for a, b in zip(state["many"], expected["many"], strict=True))
    )


def save_forever(directory: Path, first: int, reports: "multiprocessing.connection.Connection"):
    torch.set_num_threads(1)
    checkpoints = Checkpoints(directory=directory, keep=2)
    round = first
    while True:
        # The best is an old one, so that there is always something to be removed too.
        checkpoints.save(state_of(round), round=round, score=1.0 if round % 7 else 0.0)
        reports.send(round)
        round += 1


@pytest.fixture(scope="module")
def forked():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlo.checkpoint.checkpoints", __name__])
    return context


def reported_until_killed(context, directory: Path, first: int, after: float) -> int:
    """Let a process save until it is killed; return the last round that it reported as saved."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=save_forever, args=(directory, first, sender))
    process.start()
    sender.close()
    last = receiver.recv()
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    try:
        while True:
            last = receiver.recv()
    except EOFError:
        return last


@pytest.mark.skipif(os.name != "posix", reason="has no SIGKILL")
@pytest.mark.parametrize("kills", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_the_newest_is_whole_and_no_older_than_the_last_one_reported(tmp_path, forked, kills):
    chance = random.Random(kills)
    checkpoints = Checkpoints(directory=tmp_path, keep=2)
    first, torn = FIRST, 0
    for _ in range(kills):
        reported = reported_until_killed(forked, tmp_path, first, chance.uniform(0, 0.05))
        newest = checkpoints.load()
        assert newest.round in (reported, reported + 1)
        for path in checkpoints.paths():
            found = checkpoints.load(path)
            assert is_of(found.state, found.round)
        # Two, the best, and the oldest or the older best if it was killed before they were removed.
        assert 1 <= len(checkpoints.paths()) <= 5
        left_over = [path for path in tmp_path.iterdir() if target_of(path) is not None]
        assert len(left_over) <= 1
        assert {*tmp_path.iterdir()} == {*checkpoints.paths(), *left_over}
        torn += len(left_over)
        first = newest.round + 1
    # Otherwise no process was killed while it wrote, and nothing has been shown.
    assert torn > kills // 5
    checkpoints.save(state_of(first), round=first)
    assert not [path for path in tmp_path.iterdir() if target_of(path) is not None]
