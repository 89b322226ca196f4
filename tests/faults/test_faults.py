"""What goes wrong from outside: a full disk, bad samples, dead workers, NaN, Ctrl-C."""

import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlo.checkpoint.checkpoints import Checkpoints
from mlo.cli import main
from mlo.run_directory import State, read_run

PROGRAM = Path(__file__).with_name("program.py")


@dataclass(frozen=True)
class Done:
    """What a command has left."""

    returncode: int
    stdout: str
    stderr: str


FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["mlo.cli", "mlo_lbg.program", "tensorboard.summary"])


def command(arguments, preamble, out, err):
    """Be the command line, in a process that has imported everything already."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.environ["COLUMNS"] = "200"
    sys.argv = ["mlo", *arguments]
    exec(preamble, {})
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def started(place, *arguments, preamble=""):
    """Start the command line; return the process and the files that it writes to."""
    out, err = place / "stdout", place / "stderr"
    process = FORKED.Process(target=command, args=([*map(str, arguments)], preamble, out, err))
    process.start()
    return process, out, err


def ended(process, out, err):
    process.join(120)
    assert process.exitcode is not None
    return Done(process.exitcode, out.read_text(), err.read_text())


@pytest.fixture
def mlo(tmp_path):
    place = tmp_path / "streams"
    place.mkdir()
    return lambda *arguments, **options: ended(*started(place, *arguments, **options))


LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


def test_a_disk_that_is_full_ends_the_run_in_one_line_and_harms_no_checkpoint(tmp_path, mlo):
    run = tmp_path / "run"
    assert mlo("run", PROGRAM, "--out", run, "--set", "rounds=6").returncode == 0
    size = Checkpoints(directory=run / "checkpoints").paths()[0].stat().st_size
    limited = LIMITED.format(size=size // 2)
    other = tmp_path / "other"
    done = mlo("run", PROGRAM, "--out", other, "--set", "rounds=6", preamble=limited)
    assert done.returncode == 1
    assert done.stderr.startswith("mlo: error: cannot write checkpoint")
    assert done.stderr.count("\n") == 1
    assert not list((other / "checkpoints").glob("*"))
    assert read_run(other).state is State.FAILED


def test_a_record_that_cannot_be_written_stops_no_run(tmp_path, mlo):
    run, limited = tmp_path / "run", tmp_path / "limited"
    assert (
        mlo("run", PROGRAM, "--out", run, "--set", "rounds=600", "--set", "every=600").returncode
        == 0
    )
    sizes = {p.name: p.stat().st_size for p in run.rglob("*") if p.is_file()}
    checkpoint = max(v for k, v in sizes.items() if k.endswith(".mlo"))
    others = [v for k, v in sizes.items() if k not in ("metrics.jsonl",) and "tfevents" not in k]
    # The bound lies between the record, which is larger, and everything else.
    bound = max(checkpoint, *others) + 1000
    assert sizes["metrics.jsonl"] > bound
    done = mlo(
        "run", PROGRAM, "--out", limited, "--set", "rounds=600", "--set", "every=600",
        preamble=LIMITED.format(size=bound),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing more is recorded by metrics.jsonl") == 1
    assert (limited / "result.json").read_bytes() == (run / "result.json").read_bytes()
    for line in (limited / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, mlo, number):
    run, straight = tmp_path / "run", tmp_path / "straight"
    settings = ("--set", "rounds=150", "--set", "every=1000", "--set", "pause=0.02")
    process, out, err = started(tmp_path, "run", PROGRAM, "--out", run, *settings)
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    done = ended(process, out, err)
    assert done.returncode == 128 + number
    assert done.stderr == "mlo: interrupted\n"
    assert done.stdout.splitlines()[-1] == f"go on with: mlo run {PROGRAM} --resume {run}"
    assert read_run(run).state is State.INTERRUPTED
    assert mlo("run", PROGRAM, "--resume", run).returncode == 0
    assert mlo("run", PROGRAM, "--out", straight, *settings).returncode == 0
    for name in ("metrics.jsonl", "result.json"):
        assert (run / name).read_bytes() == (straight / name).read_bytes()


def test_a_finished_run_and_a_running_one_are_not_resumed(tmp_path, mlo):
    run = tmp_path / "run"
    assert mlo("run", PROGRAM, "--out", run, "--set", "rounds=3").returncode == 0
    again = mlo("run", PROGRAM, "--resume", run)
    assert again.returncode == 1
    assert again.stderr == f"mlo: error: {str(run)!r} is finished: there is nothing to resume\n"


def test_a_damaged_checkpoint_offers_the_one_before(tmp_path, mlo):
    run = tmp_path / "run"
    assert mlo("run", PROGRAM, "--out", run, "--set", "rounds=7").returncode == 0
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**about, "state": "interrupted"}))
    straight = (run / "result.json").read_bytes()
    *_, before, newest = Checkpoints(directory=run / "checkpoints").paths()
    newest.write_bytes(newest.read_bytes()[:-100])
    refused = mlo("run", PROGRAM, "--resume", run)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"the last good one is {str(before)!r}" in refused.stderr
    resumed = mlo("run", PROGRAM, "--resume", before)
    assert resumed.returncode == 0, resumed.stderr
    assert f"set aside: {newest}.aside" in resumed.stdout
    assert (run / "result.json").read_bytes() == straight
