import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mlo.errors import MloError
from mlo.parallel.failure import ParallelError, speaks
from mlo.parallel.launch import job_of, joined
from tests.parallel.launching import job

PATIENCE = 2.0


def reporting(run):
    """Run as the command line does: one line for a mistake, and an exit code."""
    try:
        run()
    except MloError as error:
        if speaks(error):
            print(f"mlo: error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def rounds(ranks, count):
    one = torch.ones(3)
    for number in range(1, count + 1):
        ranks.where = f"in round {number}; resume with mlo run --resume"
        (mean,) = ranks.mean([one * ranks.rank], like=[one])
        assert mean[0] == (ranks.size - 1) / 2
        yield number


def failing(who, how):
    def run():
        with joined("cpu", patience=PATIENCE) as ranks:
            for number in rounds(ranks, 10**6):
                if number == 37 and ranks.rank == who:
                    how()

    reporting(run)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)


def mistaken():
    raise MloError("the learning rate is negative")


def broken():
    raise ZeroDivisionError("division by zero")


def lines(endings):
    """Return what each process has told the user."""
    return [re.findall(r"^mlo: error: .*$", ending.errors, re.MULTILINE) for ending in endings]


@pytest.mark.parametrize(("who", "speaker"), [(2, 0), pytest.param(0, 1, marks=pytest.mark.slow)])
def test_a_rank_that_is_killed_is_named_once(who, speaker):
    endings = job(failing, 3, who, killed)
    died = f"mlo: error: rank {who} died (no heartbeat for 2 s) "
    where = r"in round 3[78]; resume with mlo run --resume"
    told = lines(endings)
    assert [len(said) for said in told] == [int(rank == speaker) for rank in range(3)]
    assert re.fullmatch(re.escape(died) + where, told[speaker][0])
    codes = [ending.code for ending in endings]
    assert codes.pop(who) == -signal.SIGKILL
    assert codes == [1, 1]


def test_a_rank_that_fails_is_named_with_its_reason():
    endings = job(failing, 3, 1, mistaken)
    told = lines(endings)
    assert told[0] == [
        "mlo: error: rank 1 failed: the learning rate is negative in round 38; "
        "resume with mlo run --resume"
    ]
    assert told[1:] == [[], []]
    assert [ending.code for ending in endings] == [1, 1, 1]


def test_an_error_of_no_user_shows_its_class_and_keeps_its_traceback():
    endings = job(failing, 2, 1, broken)
    assert lines(endings)[0][0].startswith(
        "mlo: error: rank 1 failed: ZeroDivisionError: division by zero in round 38"
    )
    assert "Traceback" in endings[1].errors
    assert [ending.code for ending in endings] == [1, 1]


@pytest.mark.slow
def test_rank_0_is_named_too_where_the_store_goes_with_it():
    endings = job(failing, 3, 0, killed, has_store=False)
    told = lines(endings)
    assert [len(said) for said in told] == [0, 1, 0]
    assert told[1][0].startswith("mlo: error: rank 0 died, or the launcher beside it (its store is")
    assert [ending.code for ending in endings] == [-signal.SIGKILL, 1, 1]


@pytest.mark.slow
def test_a_rank_that_hangs_ends_those_that_wait_for_it():
    endings = job(failing, 3, 1, stopped, seconds=25)
    told = lines(endings)
    assert re.fullmatch(
        r"mlo: error: rank 1 died \(no heartbeat for 2 s\) in round 3[78]; .*", told[0][0]
    )
    assert [len(said) for said in told] == [1, 0, 0]
    assert [ending.code for ending in endings] == [1, -signal.SIGKILL, 1]


def mistaken_together():
    def run():
        with joined("cpu", patience=PATIENCE) as ranks:
            deque_of(rounds(ranks, 3))
            mistaken()

    reporting(run)


def deque_of(iterator):
    for _ in iterator:
        pass


def test_a_mistake_of_all_ranks_is_told_once():
    endings = job(mistaken_together, 2)
    assert [ending.code for ending in endings] == [1, 1]
    told = [line for said in lines(endings) for line in said]
    # Rank 0 may hear of the other's before it gets to its own.
    assert len(told) == 1
    assert "the learning rate is negative" in told[0]


def going_well():
    # A rank that is slow is not dead, and one that has finished waits for it.
    for _ in range(2):
        with joined("cpu", patience=PATIENCE) as ranks:
            deque_of(rounds(ranks, 5))
            assert ranks.device == torch.device("cpu")
            if ranks.rank == 1:
                time.sleep(1.5 * PATIENCE)
        assert not dist.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    "has_store",
    [
        pytest.param(True, id="launcher keeps store"),
        pytest.param(False, id="rank 0 does", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_goes_well_leaves_nothing_behind(has_store):
    endings = job(going_well, 2, has_store=has_store)
    assert [(ending.code, ending.errors) for ending in endings] == [(0, "")] * 2


def terminated():
    def run():
        with joined("cpu", patience=PATIENCE) as ranks:
            for number in rounds(ranks, 10**6):
                if number == 10:
                    os.kill(os.getpid(), signal.SIGTERM)

    reporting(run)


@pytest.mark.slow
def test_sigterm_ends_a_run_as_ever():
    assert 128 + signal.SIGTERM in [ending.code for ending in job(terminated, 2)]


def test_outside_torchrun_there_are_no_ranks(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as ranks:
        assert ranks is None


GOOD = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "host", "MASTER_PORT": "1234"}


def test_a_job_is_what_the_environment_says():
    found = job_of(GOOD | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"})
    assert (found.rank, found.size, found.local_rank, found.local_size) == (1, 4, 0, 2)
    assert (found.host, found.port, found.attempt) == ("host", 1234, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"RANK": "one"},
            "environment variable RANK must be a number, as torchrun sets it, got 'one'",
        ),
        ({"RANK": "4"}, "RANK must be below WORLD_SIZE, got 4 and 4"),
        ({"MASTER_PORT": None}, "environment variable MASTER_PORT must be a number"),
        ({"MASTER_ADDR": None}, "environment variable MASTER_ADDR must name a host"),
        ({"WORLD_SIZE": None}, "environment variable WORLD_SIZE must be a number"),
    ],
)
def test_an_environment_with_a_gap_is_refused(change, message):
    given = {k: v for k, v in (GOOD | change).items() if v is not None}
    with pytest.raises(MloError, match=re.escape(message)) as caught:
        job_of(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"patience": 0.0}, {"timeout": -1.0}])
def test_times_must_be_positive(options, monkeypatch):
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MloError, match="patience and timeout must be > 0 s"), joined(**options):
        pass


def test_who_speaks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert not speaks(MloError("a mistake"))
    assert speaks(ParallelError("rank 0 died", ranks=(0,)))
    monkeypatch.setenv("RANK", "0")
    assert speaks(MloError("a mistake"))
    monkeypatch.delenv("RANK")
    assert speaks(MloError("a mistake"))


PROGRAM = """
import os, signal, sys
from tests.parallel.test_launch import failing, killed
failing(1, killed)
"""


@pytest.mark.slow
def test_torchrun_itself_gives_the_line_time(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    found = subprocess.run(
        [*torchrun, "--nproc-per-node", "3", str(program)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert found.returncode == 1
    told = re.findall(r"mlo: error: .*", found.stderr)
    assert len(told) == 1
    assert re.match(r"mlo: error: rank 1 died \(no heartbeat for 2 s\) in round 3[78]", told[0])
