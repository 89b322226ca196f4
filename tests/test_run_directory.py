import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.errors import ProgramError, RunError
from mlo.run_directory import ABOUT, RESULT, RunFile, State, is_run, read_events, read_run


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def started(tmp_path):
    made = RunFile.begin(tmp_path)
    yield made
    made.end(State.FINISHED)


def about(directory):
    return json.loads((directory / ABOUT).read_text())


def test_a_run_that_begins_says_what_it_is(tmp_path, started):
    found = about(tmp_path)
    assert found["schema"] == 1
    assert found["state"] == "running"
    assert found["resumed"] == 0
    assert found["seconds"] == 0
    assert set(found["versions"]) == {"mlo", "torch", "python"}
    assert found["started"] <= found["updated"]
    assert is_run(tmp_path)
    assert not is_run(tmp_path / "absent")


def test_the_states_of_a_run(tmp_path):
    made = RunFile.begin(tmp_path)
    assert read_run(tmp_path).state is State.RUNNING
    made.end(State.FAILED, "no luck")
    run = read_run(tmp_path)
    assert (run.state, run.about["error"], run.problem) == (State.FAILED, "no luck", "")
    again = RunFile.reopen(tmp_path)
    found = about(tmp_path)
    assert found["resumed"] == 1
    assert "error" not in found
    assert "ended" not in found
    again.end(State.INTERRUPTED)
    # What comes after an end does not count.
    again.end(State.FAILED, "late")
    assert read_run(tmp_path).state is State.INTERRUPTED


def test_a_run_whose_process_is_gone_has_died(tmp_path):
    made = RunFile.begin(tmp_path)
    made.note(program="demo")
    del made
    run = read_run(tmp_path)
    assert run.state is State.DIED
    assert run.about["program"] == "demo"
    RunFile.reopen(tmp_path).end(State.FINISHED)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda directory: None, "it has no run.json"),
        (lambda directory: (directory / ABOUT).write_text("{"), "run.json is damaged"),
        (lambda directory: (directory / ABOUT).write_text("[]"), "run.json is no JSON object"),
        (lambda directory: (directory / ABOUT).write_text("{}"), "another schema than 1"),
        (lambda directory: (directory / ABOUT).write_text('{"schema": 1}'), "names no state"),
        (
            lambda directory: (directory / ABOUT).write_text('{"schema": 1, "state": "died"}'),
            "names no state",
        ),
        (lambda directory: (directory / ABOUT).mkdir(), "cannot be read: no regular file"),
        (lambda directory: os.mkfifo(directory / ABOUT), "cannot be read: no regular file"),
        (lambda directory: RunFile.begin(directory).end(State.FINISHED), "is finished"),
    ],
)
def test_what_cannot_be_resumed_is_said_in_one_line(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(RunError, match=message) as caught:
        RunFile.reopen(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_run_that_is_alive_is_not_resumed(tmp_path, started):
    with pytest.raises(RunError, match=f"process {os.getpid()} is running it"):
        RunFile.reopen(tmp_path)
    with pytest.raises(RunError, match=f"process {os.getpid()} is running it"):
        RunFile.begin(tmp_path)


def test_a_run_is_not_begun_over_another(tmp_path):
    RunFile.begin(tmp_path).end(State.FAILED)
    before = (tmp_path / ABOUT).read_bytes()
    with pytest.raises(RunError, match="holds a run already"):
        RunFile.begin(tmp_path)
    assert (tmp_path / ABOUT).read_bytes() == before
    RunFile.reopen(tmp_path).end(State.FINISHED)


def full_disk(_):
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_at_the_beginning_leaves_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunError, match="No space left on device"):
        RunFile.begin(tmp_path)
    monkeypatch.undo()
    RunFile.begin(tmp_path).end(State.FINISHED)


def test_a_disk_that_is_full_at_the_end_releases_the_lock(tmp_path, monkeypatch):
    made = RunFile.begin(tmp_path)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        made.end(State.FINISHED)
    monkeypatch.undo()
    assert read_run(tmp_path).state is State.DIED


def test_notes_are_plain_data(tmp_path, started):
    started.note(program="demo", sizes=(1, 2), best=float("nan"))
    assert about(tmp_path)["sizes"] == [1, 2]
    assert about(tmp_path)["best"] == "nan"
    with pytest.raises(ProgramError, match=r"run\.json\.x: expected a number"):
        started.note(x=object())


def test_warnings_add_up_and_none_is_repeated(tmp_path, started):
    for text in ("first", "second", "first"):
        started.warn(text)
    assert about(tmp_path)["warning"] == "first; second"


def test_signs_of_life_come_once_a_minute(tmp_path):
    clock = Clock()
    made = RunFile.begin(tmp_path)
    made.end(State.INTERRUPTED)
    from_file = about(tmp_path)
    lock = RunFile.reopen(tmp_path)._lock
    made = RunFile(tmp_path, lock, from_file | {"state": "running"}, clock=clock)
    clock.now = 59.0
    made.sign_of_life("step 1")
    assert "at" not in about(tmp_path)
    clock.now = 61.0
    made.sign_of_life("step 2")
    assert (about(tmp_path)["at"], about(tmp_path)["seconds"]) == ("step 2", 61)
    clock.now = 100.0
    made.sign_of_life("step 3")
    assert about(tmp_path)["at"] == "step 2"
    made.end(State.FINISHED)
    clock.now = 1000.0
    made.sign_of_life("step 4")
    assert about(tmp_path)["at"] == "step 2"


def test_seconds_add_up_over_processes(tmp_path):
    RunFile.begin(tmp_path).end(State.INTERRUPTED)
    (tmp_path / ABOUT).write_text(json.dumps(about(tmp_path) | {"seconds": 100}))
    clock = Clock()
    lock = RunFile.reopen(tmp_path)._lock
    made = RunFile(tmp_path, lock, about(tmp_path), clock=clock)
    clock.now = 7.0
    made.end(State.FINISHED)
    assert about(tmp_path)["seconds"] == 107


def test_a_damaged_result_is_no_reason_to_doubt_the_state(tmp_path):
    RunFile.begin(tmp_path).end(State.FINISHED)
    (tmp_path / RESULT).write_text("{")
    run = read_run(tmp_path)
    assert run.state is State.FINISHED
    assert run.problem.startswith("result.json is damaged")
    (tmp_path / RESULT).write_text('{"error": 0.5}')
    assert read_run(tmp_path).result == {"error": 0.5}
    assert read_run(tmp_path).problem == ""


def test_files_of_absurd_size_are_not_read(tmp_path):
    RunFile.begin(tmp_path).end(State.FINISHED)
    with (tmp_path / RESULT).open("wb") as stream:
        stream.truncate(20 << 20)
    assert read_run(tmp_path).problem == "result.json is larger than 16 MiB"


# Values that come close to what is expected find more than bytes of any kind.
VALUES = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 3, 10**400, -(10**30), 0.5, 1e308, float("inf")),
        *(float("nan"), "", "running", "finished", "failed", "died", "x" * 5000, "a\nb", "\x1b[2J"),
        *("\ud800", "[bold]", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
        *("2025-01-01T00:00:00+00:00", "2025-01-01", [], {}, [[]], {"": {}}, {"running": 1}),
    ]
)


def documents(*keys):
    """Return the contents of files that should hold an object with such keys."""
    mapping = st.builds(
        lambda values, schema: schema | dict(zip(keys, values, strict=False)),
        st.lists(VALUES, max_size=len(keys)),
        st.sampled_from([{}, {"schema": 1}, {"schema": 1, "state": "running"}]),
    )
    written = (mapping | VALUES).map(lambda value: json.dumps(value).encode())
    torn = st.builds(lambda content, end: content[:end], written, st.integers(0, 80))
    # Beyond what Python can read recursively; and a number beyond what it reads at all.
    bombs = st.sampled_from([b"[" * 100_000, b'{"schema": ' + b"9" * 5000 + b"}"])
    return written | written | torn | st.binary(max_size=40) | bombs


KEYS = ("state", "started", "ended", "updated", "seconds", "resumed", "program", "error")


@settings(max_examples=1000)
@given(about=documents(*KEYS), result=documents("headline", "error"))
def test_any_bytes_can_be_read(tmp_path_factory, about, result):
    directory = tmp_path_factory.getbasetemp() / "fuzzed-run"
    directory.mkdir(exist_ok=True)
    (directory / ABOUT).write_bytes(about)
    (directory / RESULT).write_bytes(result)
    run = read_run(directory)
    assert isinstance(run.about, dict)
    assert isinstance(run.result, dict)
    assert "\n" not in run.problem
    assert (run.state is State.UNKNOWN) <= bool(run.problem)


def test_events_are_read_whatever_stands_between_them(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1}\n\n[1]\nnonsense\n\xff\xfe\n{"step": 2}\n'
        + b"[" * 100_000
        + b"\n"
        + b'{"long": "'
        + b"x" * (5 << 20)
        + b'"}\n{"step": 3}\n{"step":'
    )
    assert list(read_events(path)) == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert list(read_events(tmp_path / "absent")) == []


@settings(max_examples=1000)
@given(st.lists(documents("step") | st.binary(max_size=30), max_size=5))
def test_any_lines_can_be_read(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert all(isinstance(event, dict) for event in read_events(path))
