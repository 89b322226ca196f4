"""A run directory from anywhere is resumed or refused in one line; nothing else is written."""

import io
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mlo import running
from mlo.errors import MloError

PROGRAM = """
from mlo.config import Config
from mlo.program import Program

class Settings(Config):
    rounds: int = 3

def graph(config): ...

def run(config, record):
    checkpoints = record.checkpoints()
    found = checkpoints.load()
    record.rewind(None if found is None else found.state.get("record"))
    record.metrics(rounds=config.rounds)
    record.result({"headline": "done"})

program = Program(summary="x", config=Settings, graph=graph, run=run)
"""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = ["schema", "state", "program", "resumed", "started", "versions", "command", "error", "x"]
abouts = st.dictionaries(st.sampled_from(KEYS), json_values, max_size=6)
contents = st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode())
NAMES = ["config.yaml", "metrics.jsonl", "result.json", "run.lock"]
CHECKPOINT = "checkpoints/round-000000001.mlo"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    (place / "program.py").write_text(PROGRAM)
    return place


def outside(place):
    return {p: p.read_bytes() for p in place.rglob("*") if p.is_file() and "run" not in p.parts}


def resumed_or_refused(place, about, files):
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_bytes(about)
    for name, content in files.items():
        (run / name).write_bytes(content)
    before = outside(place)
    try:
        running.resume(
            run, str(place / "program.py"), console=Console(file=io.StringIO(), width=200)
        )
    except MloError as error:
        message = str(error)
    else:
        message = ""
    assert message == "" or message.isprintable()
    assert outside(place) == before
    assert not list(place.rglob("*.partial"))


@settings(max_examples=500)
@given(
    changes=abouts,
    files=st.dictionaries(st.sampled_from([*NAMES, CHECKPOINT]), contents, max_size=3),
)
def test_a_directory_that_says_something_else(place, changes, files):
    about = {"schema": 1, "state": "interrupted", "program": str(place / "program.py")}
    resumed_or_refused(place, json.dumps({**about, **changes}).encode(), files)


@settings(max_examples=500)
@given(about=contents, files=st.dictionaries(st.sampled_from(NAMES), contents, max_size=2))
def test_a_directory_that_says_anything(place, about, files):
    resumed_or_refused(place, about, files)


def test_a_sound_directory_is_resumed(place):
    about = {"schema": 1, "state": "failed", "program": str(place / "program.py")}
    resumed_or_refused(place, json.dumps(about).encode(), {"config.yaml": b"rounds: 4"})
    assert (place / "run/metrics.jsonl").read_text() == '{"rounds": 4}\n'
    assert json.loads((place / "run/run.json").read_text())["state"] == "finished"


def test_a_directory_cannot_say_which_file_is_executed(place):
    about = {"schema": 1, "state": "failed", "program": str(place / "program.py")}
    resumed_or_refused(place, json.dumps(about).encode(), {})
    (place / "run/run.json").write_text(json.dumps(about))
    with pytest.raises(MloError, match="name the file that is to be executed"):
        running.resume(place / "run", console=Console(file=io.StringIO()))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_no_name_leads_out(place, name):
    about = {"schema": 1, "state": "failed", "program": str(place / "program.py")}
    resumed_or_refused(place, json.dumps(about).encode(), {})
    with pytest.raises(MloError):
        running.resume(Path(place / "run" / name / "x"), console=Console(file=io.StringIO()))
