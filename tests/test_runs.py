import io
import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mlo.errors import RunError
from mlo.run_directory import ABOUT, RESULT, RunFile, State
from mlo.runs import listed


def shown(directory, width=160):
    console = Console(file=io.StringIO(), width=width)
    listed(directory, console)
    return console.file.getvalue()


def rows(directory, width=160):
    return [line.split() for line in shown(directory, width).splitlines()[1:]]


def made(directory, state=State.FINISHED, error=None, **about):
    directory.mkdir(parents=True)
    run = RunFile.begin(directory)
    run.note(**about)
    if state is not None:
        run.end(state, error)
    return run


def change(directory, **values):
    about = json.loads((directory / ABOUT).read_text())
    (directory / ABOUT).write_text(json.dumps(about | values))


@pytest.fixture(autouse=True)
def in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_every_state_and_what_came_of_it(tmp_path):
    made(tmp_path / "done", program="demo")
    (tmp_path / "done" / RESULT).write_text(
        json.dumps({"note": "x", "error": {"test": 0.05}, "flag": True, "a": 1, "b": "nan", "c": 3})
    )
    made(tmp_path / "told", headline="from run.json")
    made(tmp_path / "head")
    (tmp_path / "head" / RESULT).write_text('{"headline": "4.9% ± 0.5", "error": 0.05}')
    made(tmp_path / "broken", State.FAILED, "ValueError: no luck")
    made(tmp_path / "stopped", State.INTERRUPTED, at="step 7")
    alive = made(tmp_path / "alive", None, at="lbg/seed-0, step 1200")
    made(tmp_path / "dead", None, at="step 3")
    found = {row[0]: " ".join(row[1:]) for row in rows(tmp_path)}
    today = time.strftime("%Y-%m-%d")
    assert found["done"].startswith(f"demo finished {today}")
    assert found["done"].endswith("error/test 0.05 a 1 b undefined")
    assert found["told"].endswith("from run.json")
    assert found["head"].endswith("4.9% ± 0.5")
    assert found["broken"].startswith("failed")
    assert found["broken"].endswith("ValueError: no luck")
    assert found["stopped"].startswith("interrupted")
    assert found["stopped"].endswith("step 7")
    assert found["alive"].startswith("running")
    assert found["alive"].endswith("lbg/seed-0, step 1200")
    assert found["dead"].startswith("died")
    alive.end(State.FINISHED)


def test_the_newest_comes_first_and_times_are_those_of_this_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "XYZ-05:30")
    time.tzset()
    for name, started in (
        ("old", "2025-01-01T23:00:00+00:00"),
        ("new", "2025-01-01T20:00:00-08:00"),
        ("naive", "2025-01-01T22:00:00"),
        ("odd", 7),
    ):
        made(tmp_path / name)
        change(tmp_path / name, started=started)
    assert [row[0] for row in rows(tmp_path)] == ["new", "old", "naive", "odd"]
    assert "2025-01-02 04:30" in shown(tmp_path)


def test_how_long_runs_took(tmp_path):
    for name, values in {
        "counted": {"seconds": 75, "started": "2025-01-01T00:00:00+00:00"},
        "foreign": {
            "seconds": "many",
            "started": "2025-01-01T00:00:00+00:00",
            "ended": "2025-01-01T02:03:04+00:00",
        },
    }.items():
        made(tmp_path / name, resumed=2)
        change(tmp_path / name, **values)
    text = shown(tmp_path)
    assert "1 min 15 s" in text
    assert "2 h 3 min" in text
    assert text.count("2×") == 2


def test_runs_are_found_three_folders_down_but_not_within_runs(tmp_path):
    made(tmp_path / "a/b/c")
    made(tmp_path / "a/b/d/e")
    made(tmp_path / "a/b/c/inner")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert [row[0] for row in rows(tmp_path)] == ["a/b/c"]
    assert [row[0] for row in rows(tmp_path / "a/b/c")] == ["c"]


def test_no_runs_and_no_directory(tmp_path):
    (tmp_path / "a[b]\x1b").mkdir()
    assert shown(tmp_path / "a[b]\x1b").startswith("no runs in ")
    assert "\x1b" not in shown(tmp_path / "a[b]\x1b")
    with pytest.raises(RunError, match="is no directory, expected one with runs in it"):
        shown(tmp_path / "absent")


def test_folders_that_cannot_be_read_are_passed_over(tmp_path, monkeypatch):
    made(tmp_path / "run")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def guarded(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert [row[0] for row in rows(tmp_path)] == ["run"]


def test_damage_is_a_row_of_its_run(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ABOUT).write_bytes(b"\xff\xfe{")
    made(tmp_path / "b")
    (tmp_path / "b" / RESULT).write_text("[1]")
    text = shown(tmp_path)
    assert "run.json is damaged: it is not JSON" in text
    assert "result.json is no JSON object" in text
    assert len(text.splitlines()) == 3


def test_nothing_in_a_file_reaches_the_terminal_as_a_command(tmp_path):
    evil = "\x1b[2J\x07\x9b31m\u202e[red]x[/red]:smile: \r\n\x00" + "y" * 1000
    made(tmp_path / "a", State.FAILED, evil, program=evil)
    made(tmp_path / "b", headline=evil)
    made(tmp_path / "c\x1b]0;title\x07")
    for width in (40, 100, 160):
        text = shown(tmp_path, width)
        assert not [c for c in text if not c.isprintable() and c != "\n"]
        assert "[red]x" in text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("width", [30, 60, 80, 100])
def test_a_narrow_terminal_shows_each_run_on_lines_of_its_own(tmp_path, width):
    made(tmp_path / "lbg-2025", program="lbg", headline="4.9%")
    made(tmp_path / "other", program="demo")
    text = shown(tmp_path, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\n  lbg: 4.9%\n" in text
    assert "finished" in text


# Values that come close to what is expected find more than bytes of any kind.
VALUES = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 3, 10**400, -(10**30), 0.5, 1e308, float("inf")),
        *(float("nan"), "", "running", "finished", "failed", "died", "x" * 5000, "a\nb", "\x1b[2J"),
        *("\ud800", "[bold]", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
        *("2025-01-01T00:00:00+00:00", "2025-01-01", [], {}, [[]], {"": {}}, {"running": 1}),
    ]
)
KEYS = ("state", "started", "ended", "updated", "seconds", "resumed", "program", "error", "at")


def documents(*keys):
    """Return the contents of files that should hold an object with such keys."""
    mapping = st.builds(
        lambda values, state: {"schema": 1, "state": state} | dict(zip(keys, values, strict=True)),
        st.lists(VALUES, min_size=len(keys), max_size=len(keys)),
        st.sampled_from(["running", "failed"]),
    )
    written = mapping.map(lambda value: json.dumps(value).encode())
    return written | written | st.binary(max_size=40) | st.just(b"[" * 100_000)


@settings(max_examples=1000)
@given(
    about=documents(*KEYS[1:]) | documents(*KEYS),
    result=documents("headline", "error", "n"),
    metrics=st.binary(max_size=20),
    width=st.sampled_from([20, 80, 160]),
)
def test_any_bytes_are_listed(tmp_path_factory, about, result, metrics, width):
    directory = tmp_path_factory.getbasetemp() / "fuzzed"
    (directory / "run").mkdir(parents=True, exist_ok=True)
    (directory / "run" / ABOUT).write_bytes(about)
    (directory / "run" / RESULT).write_bytes(result)
    (directory / "run" / "metrics.jsonl").write_bytes(metrics)
    text = shown(directory, width)
    assert "run" in text
    assert not [c for c in text if not c.isprintable() and c != "\n"]
