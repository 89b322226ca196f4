"""A run that is killed at random moments ends as if it had not been, and leaves whole files."""

import io
import json
import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest
from rich.console import Console

from mlo import config, registry, running
from mlo.checkpoint.checkpoints import Checkpoints
from mlo.run_directory import State, read_run

PROGRAM = Path(__file__).with_name("program.py")
SETTINGS = {"rounds": 60, "every": 3, "pause": 0.003}


def begin_or_resume(directory):
    """Run the program in this process, from wherever the directory says."""
    quiet = Console(file=io.StringIO())
    if (directory / "run.json").exists():
        running.resume(directory, str(PROGRAM), console=quiet)
        return
    program = registry.load(str(PROGRAM))
    settings = config.load(program.config, overrides=[f"{k}={v}" for k, v in SETTINGS.items()])
    # A process that was killed while it made the directory has left an unfinished one behind.
    for path in directory.glob("*"):
        path.unlink()
    running.begin(str(PROGRAM), program, settings, directory, console=quiet)


@pytest.fixture(scope="module")
def forked():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlo", "mlo.running", "torch.utils.tensorboard"])
    return context


def whole_files(directory):
    """Assert that every file is complete; return the newest round that is saved."""
    json.loads((directory / "run.json").read_text())
    checkpoints = Checkpoints(directory=directory / "checkpoints")
    for path in checkpoints.paths():
        # Loading compares the checksum; round 0 is the start, saved before anything has moved.
        assert path.name == f"round-{checkpoints.load(path).round:09d}.mlo"
    newest = checkpoints.load()
    return 0 if newest is None else newest.round


def killed(forked, directory, after):
    process = forked.Process(target=begin_or_resume, args=(directory,))
    process.start()
    process.join(after)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_nothing(tmp_path, forked, kills):
    straight = tmp_path / "straight"
    assert killed(forked, straight, 60) == 0
    chance = random.Random(kills)
    attempt, saved = 0, 0
    while kills:
        directory = tmp_path / f"killed-{attempt}"
        # From the first import to several rounds: a process takes about half a second to start.
        if killed(forked, directory, chance.uniform(0.2, 1.2)) == 0:
            assert_same(directory, straight)
            attempt, saved = attempt + 1, 0
            continue
        kills -= 1
        if not (directory / "run.json").exists():
            continue
        assert read_run(directory).state is State.DIED
        # Nothing is lost but the rounds since the last checkpoint.
        now = whole_files(directory)
        assert now >= saved
        saved = now
    assert killed(forked, directory, 60) == 0
    assert_same(directory, straight)


def assert_same(directory, straight):
    for name in ("metrics.jsonl", "result.json", "config.yaml"):
        assert (directory / name).read_bytes() == (straight / name).read_bytes(), name
    assert not list(directory.rglob("*.partial"))
