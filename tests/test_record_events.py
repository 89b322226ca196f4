"""What a record takes down, how its run ends, and what does not stop it."""

import gc
import io
import json
import os
import resource
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mlo.errors import GraphError, ProgramError, RunError
from mlo.events import Scalars
from mlo.record import Record
from mlo.run_directory import State, read_run
from mlo.sinks.guarded import Guarded
from tests.forked import FORKS, in_child


@pytest.fixture
def record(tmp_path):
    made = Record.create(tmp_path / "run", console=Console(file=io.StringIO(), width=200))
    yield made
    made.close()


def about(record):
    return json.loads((record.directory / "run.json").read_text())


def lines(record):
    return [json.loads(line) for line in record.path("metrics.jsonl").read_text().splitlines()]


def said(record):
    return record.console.file.getvalue().splitlines()


def open_files(directory):
    """Return the files of a directory that this process has open, none where that is not told."""
    found = [path.resolve() for path in Path("/proc/self/fd").glob("*")]
    return [path.name for path in found if path.is_relative_to(directory)]


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_everything_that_can_be_taken_down(record):
    inner = record.within("lbg/seed-0")
    inner.scalars({"loss/model": torch.tensor(0.5), "load/0": 1}, step=3)
    inner.histogram("C", torch.tensor([0.0, 1.0]), step=3)
    inner.image("groups", torch.zeros(2, 2), step=3)
    inner.table("comparison", [{"method": "LBG", "error": 0.05}])
    scalars, histogram, image, table = lines(record)
    head = {"scope": "lbg/seed-0", "step": 3}
    assert scalars == {
        "kind": "scalars", **head, "values": {"loss/model": 0.5, "load/0": 1.0},
    }  # fmt: skip
    assert (histogram["kind"], histogram["name"]) == ("histogram", "C")
    assert image == {
        "kind": "image", **head, "name": "groups", "file": "images/lbg/seed-0/groups-3.png",
    }  # fmt: skip
    assert (record.directory / image["file"]).read_bytes().startswith(b"\x89PNG")
    assert table["columns"] == ["method", "error"]
    folder = record.directory / "tensorboard" / "lbg" / "seed-0"
    assert [path.name.startswith("events.out.tfevents.") for path in folder.iterdir()] == [True]
    assert said(record) == []


def test_a_program_that_only_writes_lines_needs_no_tensorboard(tmp_path):
    code = (
        "import sys, pathlib\nfrom rich.console import Console\nfrom mlo.record import Record\n"
        "record = Record.create(pathlib.Path(sys.argv[1]), console=Console())\n"
        "record.metrics(a=1)\nrecord.close()\n"
        "assert not [name for name in sys.modules if name.startswith('tensorboard')]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_context_says_how_the_run_ended(tmp_path):
    for place, (error, state, text) in enumerate(
        [
            (None, "finished", None),
            (KeyboardInterrupt(), "interrupted", None),
            (ValueError("bad\nworse"), "failed", "ValueError: bad"),
            (GraphError("no such edge"), "failed", "no such edge"),
            (MemoryError(), "failed", "MemoryError"),
        ]
    ):
        made = Record.create(tmp_path / str(place), console=Console(quiet=True))
        with suppress(BaseException), made:
            assert read_run(made.directory).state is State.RUNNING
            if error is not None:
                raise error
        assert about(made)["state"] == state
        assert about(made).get("error") == text
        assert about(made)["ended"] >= about(made)["started"]


def test_only_the_first_end_counts(record):
    record.close(State.FAILED, "no luck")
    record.close()
    assert (about(record)["state"], about(record)["error"]) == ("failed", "no luck")


def test_a_record_that_nobody_closes_warns_of_nothing_and_lets_go(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Record.create(tmp_path / "run", console=Console(quiet=True))
        made.scalars({"a": 1.0}, step=1)
        made.within("b").image("x", torch.zeros(2, 2), step=1)
        before = open_files(tmp_path)
        del made
        gc.collect()
    assert before in ([], ["run.lock"])
    assert open_files(tmp_path) == []
    assert read_run(tmp_path / "run").state is State.DIED


def test_what_is_told_of_a_run(record):
    record.describe(program="demo", graph="flowchart", explanation="two levels")
    record.result({"error": 0.05, "headline": "5%"})
    found = about(record)
    assert (found["program"], found["graph"], found["headline"]) == ("demo", "flowchart", "5%")
    with pytest.raises(ProgramError, match=r"^run\.json\.x: expected a number"):
        record.describe(x=object())


class Broken:
    """A sink that always fails."""

    def __init__(self):
        self.calls = 0

    def write(self, event):
        self.calls += 1
        raise RuntimeError("always\nreally")

    def close(self):
        raise RuntimeError("always")


def test_a_sink_that_always_fails_stops_no_run(record):
    broken = Broken()
    sinks = (Guarded("broken", broken, record.warned), *record.sinks)
    other = Record(directory=record.directory, console=record.console, sinks=sinks)
    for step in range(3):
        other.scalars({"a": 1.0}, step=step)
    other.close()
    assert broken.calls == 1
    assert len(lines(record)) == 3
    line = "warning: nothing more is recorded by broken: RuntimeError: always"
    assert said(record) == [line]
    assert about(record)["warning"] == line


def test_without_tensorboard_everything_else_is_recorded(record, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for step in range(3):
        record.scalars({"a": 1.0}, step=step)
    assert len(lines(record)) == 3
    [line] = said(record)
    assert line.startswith("warning: nothing more is recorded by tensorboard: ModuleNotFoundError")


def fill_up(directory, console):
    record = Record.create(directory, console=Console(file=console.open("w"), width=300))
    record.scalars({"a": 0.0}, step=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
    for step in range(1, 200):
        record.scalars({"a": 1 / step}, step=step)
        record.metrics(step=step, filler="x" * 100)
    record.image("large", torch.rand(100, 100), step=1)
    record.image("small", torch.zeros(2, 2), step=1)
    record.result({"error": 0.5})
    record.close()
    record.console.file.close()


@FORKS
def test_a_disk_that_fills_up_stops_no_run(tmp_path):
    assert in_child(fill_up, tmp_path / "run", tmp_path / "console") == 0
    said = (tmp_path / "console").read_text().splitlines()
    assert len(said) == 3
    for line, name in zip(said, ("metrics.jsonl", "tensorboard", "images"), strict=True):
        assert line.startswith(f"warning: nothing more is recorded by {name}: OSError: ")
    run = read_run(tmp_path / "run")
    assert run.state is State.FINISHED
    assert run.result == {"error": 0.5}
    assert run.about["warning"] == "; ".join(said)
    content = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert content.endswith("\n")
    assert [json.loads(line) for line in content.splitlines()]
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_disk_that_is_full_for_good_is_mentioned_once(record, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    record.describe(a=1)
    record.describe(a=2)
    record.metrics(a=1)
    assert record.position() == {"metrics.jsonl": 9}
    with pytest.raises(RunError, match=r"^cannot write .*result\.json.*: No space left"):
        record.result({"a": 1})
    record.close()
    monkeypatch.undo()
    assert said(record) == [
        "warning: run.json cannot be written: No space left on device",
        "warning: metrics.jsonl cannot be written: No space left on device",
    ]
    assert read_run(record.directory).state is State.DIED


def test_a_console_that_is_closed_stops_no_run(record):
    record.console.file.close()
    record.warned("warning: something")
    assert about(record)["warning"] == "warning: something"


def test_a_log_gets_a_line_now_and_then_and_a_terminal_none(tmp_path, monkeypatch):
    monkeypatch.setattr("mlo.pace.Pace.is_due", lambda self: True)
    for force, expected in ((False, "step 1  a 1\n"), (True, "")):
        console = Console(file=io.StringIO(), force_terminal=force)
        with Record.create(tmp_path / str(force), console=console) as made:
            made.scalars({"a": 1.0}, step=1)
        assert console.file.getvalue() == expected


def test_a_record_of_no_run_writes_files_and_nothing_else(tmp_path):
    bare = Record(directory=tmp_path, console=Console(quiet=True))
    bare.scalars({"a": 1.0}, step=1)
    bare.text("table.txt", "x")
    bare.result({"headline": "x"})
    bare.describe(a=1)
    bare.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "table.txt"]


def test_signs_of_life_say_how_far_a_run_has_come(record, monkeypatch):
    monkeypatch.setattr("mlo.run_directory._SIGN_OF_LIFE_SECONDS", 0.0)
    record.within("lbg/seed-0").scalars({"a": 1.0}, step=7)
    assert about(record)["at"] == "lbg/seed-0, step 7"
    record.scalars({"a": 1.0}, step=8)
    record.metrics(a=1)
    record.table("t", [])
    assert about(record)["at"] == "step 8"


def test_events_are_plain_numbers_for_every_sink(tmp_path):
    seen = []

    class Sees:
        def write(self, event):
            seen.append(event)

        def close(self):
            pass

    record = Record(directory=tmp_path, console=Console(quiet=True), sinks=(Sees(),))
    record.within("a").scalars({"x": torch.tensor(1)}, step=2)
    assert seen == [Scalars(scope="a", step=2, values={"x": 1.0})]
    assert type(seen[0].values["x"]) is float
