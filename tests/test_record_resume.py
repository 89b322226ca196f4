"""Records that go on where an earlier process stopped, and those of ranks that write nothing."""

import io
import json
import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mlo.errors import ProgramError, RunError
from mlo.record import Record
from mlo.run_directory import State, read_run
from tests.forked import FORKS, in_child


def quiet():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def record(tmp_path):
    made = Record.create(tmp_path / "run", console=quiet())
    yield made
    made.close()


def about(record):
    return json.loads((record.directory / "run.json").read_text())


def write(directory, first, last, position=None):
    """Record steps up to 40; a run that ends before is killed, with a line half written."""
    make = Record.create if first == 0 else Record.resume
    record = make(directory, console=quiet())
    record.rewind(position)
    for step in range(first, last):
        record.within("lbg/seed-0").scalars({"loss/model": 1 / (step + 1)}, step=step)
        record.metrics(step=step)
        if step == 14:
            record.text("position.json", json.dumps(record.position()))
    if last < 40:
        with (directory / "metrics.jsonl").open("a") as stream:
            stream.write('{"torn')
        os.kill(os.getpid(), signal.SIGKILL)
    record.close()


@FORKS
def test_a_run_that_is_killed_and_resumed_leaves_what_one_that_was_not_would(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert in_child(write, straight, 0, 40) == 0
    assert in_child(write, killed, 0, 25) == -signal.SIGKILL
    assert read_run(killed).state is State.DIED
    position = json.loads((killed / "position.json").read_text())
    assert in_child(write, killed, 15, 40, position) == 0
    assert (killed / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    run = read_run(killed)
    assert (run.state, run.about["resumed"]) == (State.FINISHED, 1)


def test_resuming_cuts_off_a_torn_line(record):
    record.metrics(a=1)
    with record.path("metrics.jsonl").open("a") as stream:
        stream.write('{"a": 2')
    record.close(State.INTERRUPTED)
    again = Record.resume(record.directory, console=quiet())
    again.metrics(a=3)
    again.close()
    assert again.resuming
    assert not record.resuming
    assert record.path("metrics.jsonl").read_text() == '{"a": 1}\n{"a": 3}\n'


def test_resuming_what_cannot_be(tmp_path, record):
    with pytest.raises(RunError, match="is running it"):
        Record.resume(record.directory, console=quiet())
    record.close()
    with pytest.raises(RunError, match="is finished: there is nothing to resume"):
        Record.resume(record.directory, console=quiet())
    with pytest.raises(RunError, match=r"it has no run\.json"):
        Record.resume(tmp_path / "absent", console=quiet())


def test_a_metrics_file_that_is_a_link_is_not_touched_and_the_lock_is_let_go(tmp_path, record):
    record.close(State.INTERRUPTED)
    target = tmp_path / "target"
    target.write_text("keep")
    (record.directory / "metrics.jsonl").symlink_to(target)
    for _ in range(2):
        with pytest.raises(RunError, match=r"^cannot repair "):
            Record.resume(record.directory, console=quiet())
    assert target.read_text() == "keep"


@given(st.integers(0, 5), st.integers(0, 5))
def test_rewinding_forgets_what_came_after(tmp_path_factory, before, after):
    record = Record.create(tmp_path_factory.mktemp("run"), console=quiet())
    for step in range(before):
        record.metrics(step=step)
    position = record.position()
    for step in range(after):
        record.metrics(late=step)
    record.rewind(position)
    assert record.position() == position
    record.metrics(step=before)
    lines = record.path("metrics.jsonl").read_text().splitlines()
    assert lines == [json.dumps({"step": step}) for step in range(before + 1)]


@pytest.mark.parametrize(
    "position", [{}, {"metrics.jsonl": -1}, {"metrics.jsonl": "1"}, {"metrics.jsonl": True}, [1]]
)
def test_what_is_no_position_is_refused(record, position):
    record.metrics(a=1)
    with pytest.raises(RunError, match=r"^expected a position of metrics\.jsonl, got"):
        record.rewind(position)
    record.rewind(None)
    assert record.path("metrics.jsonl").read_text() == '{"a": 1}\n'


def test_lines_that_were_lost_are_missed(record):
    record.metrics(a=1)
    position = record.position()
    record.path("metrics.jsonl").write_text("")
    record.rewind(position)
    warning = "warning: 9 bytes of metrics.jsonl were lost before the run died"
    assert about(record)["warning"] == warning
    assert record.console.file.getvalue() == f"{warning}\n"


def test_a_position_is_on_the_disk(record, monkeypatch):
    synced = []
    record.metrics(a=1)
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    record.position()
    assert synced == [(record.directory / "metrics.jsonl").stat().st_ino]


def test_a_rank_that_leaves_writing_to_another_leaves_nothing(tmp_path, record):
    record.metrics(a=1)
    record.text("notes.txt", "theirs")
    before = {path: path.read_bytes() for path in record.directory.iterdir()}
    other = Record.silent(record.directory, console=quiet(), resuming=True)
    own = other.within("a/seed-0")
    assert not own.writes
    assert own.resuming
    own.metrics(a=2)
    own.scalars({"a": 1.0}, step=1)
    own.histogram("h", torch.zeros(3), step=1)
    own.image("i", torch.zeros(2, 2), step=1)
    own.table("t", [{"a": 1}])
    own.text("notes.txt", "mine")
    own.result({"error": 0.5, "headline": "mine"})
    own.print("hello")
    own.describe(program="mine")
    own.path("plots/curves.png").write_bytes(b"mine")
    own.rewind({"metrics.jsonl": 0})
    own.close(State.FAILED, "mine")
    assert other.position() == record.position()
    assert {path: path.read_bytes() for path in record.directory.iterdir()} == before
    assert own.console.file.getvalue() == ""
    # Mistakes are mistakes on every rank, or one of them would go on alone.
    for mistake in (
        lambda: own.metrics(a=object()),
        lambda: own.scalars({"a": "x"}, step=1),
        lambda: own.path("../x"),
        lambda: own.text("../x", ""),
    ):
        with pytest.raises(ProgramError):
            mistake()


def test_the_files_of_a_silent_rank_are_removed_with_it(tmp_path):
    record = Record.silent(tmp_path, console=quiet())
    path = record.path("a/b")
    assert path.parent.is_dir()
    assert record.within("x").path("a/b") == path
    del record
    assert not path.parent.exists()
    assert not list(tmp_path.iterdir())


def test_checkpoints_lie_under_the_scope(record):
    root = record.checkpoints()
    inner = record.within("lbg").within("seed-0").checkpoints(every=5, keep=2)
    assert root.directory == record.directory / "checkpoints"
    assert inner.directory == record.directory / "checkpoints" / "lbg" / "seed-0"
    assert (inner.every, inner.keep) == (5, 2)
    inner.save({"a": 1}, round=5)
    assert root.paths() == []
    assert inner.load().state == {"a": 1}


def test_checkpoints_do_not_leave_through_a_link(tmp_path, record):
    (record.directory / "checkpoints").symlink_to(tmp_path)
    with pytest.raises(ProgramError, match="inside the run directory"):
        record.within("a").checkpoints()


@pytest.mark.parametrize(
    "scope", ["", "..", "a/../b", "/a", "a/", "a//b", ".", "a\0", "a\\b", "a\n", " a", "x" * 101]
)
def test_a_scope_is_made_of_names(record, scope):
    with pytest.raises(ProgramError, match=r"^scope "):
        record.within(scope)


def test_scopes_lie_within_each_other(record):
    assert record.within("a b").within("é/seed-0").scope == "a b/é/seed-0"
    record.within("a").metrics(x=1)
    assert record.path("metrics.jsonl").read_text() == '{"scope": "a", "x": 1}\n'
