import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlo.events import line_of, scalars_of
from mlo.sinks.json_lines import JsonLines
from tests.forked import FORKS, killed, started


def write_for_ever(path):
    lines = JsonLines(path)
    for number in itertools.count():
        lines.write(line_of("", {"number": number, "filler": "x" * (number % 5000)}))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_event_is_a_line_that_is_there_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    assert lines.size() == 0
    assert not path.exists()
    lines.write(scalars_of("", 1, {"loss": float("nan")}))
    assert path.read_text() == (
        '{"kind": "scalars", "scope": "", "step": 1, "values": {"loss": "nan"}}\n'
    )
    lines.write(line_of("", {"text": "two\nlines"}))
    assert len(lines_of(path)) == 2
    assert lines.size() == path.stat().st_size
    lines.flush()
    lines.close()


@given(st.binary(max_size=300), st.integers(0, 400))
def test_a_cut_leaves_whole_lines(tmp_path_factory, content, size):
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_bytes(content)
    kept = JsonLines(path).cut(size)
    expected = content[:size]
    expected = expected[: expected.rfind(b"\n") + 1]
    assert path.read_bytes() == expected
    assert kept == len(expected)


def test_a_line_that_is_longer_than_a_block_is_cut_off_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"{}\n" + b"x" * 200_000)
    JsonLines(path).repair()
    assert path.read_bytes() == b"{}\n"
    path.write_bytes(b"x" * 200_000)
    JsonLines(path).repair()
    assert path.read_bytes() == b""


def test_a_file_that_is_not_there_needs_no_repair(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.repair()
    lines.flush()
    assert lines.cut(10) == 0
    assert not list(tmp_path.iterdir())


@FORKS
def test_a_writer_that_is_killed_leaves_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    killed(started(write_for_ever, path), once=lambda: JsonLines(path).size() > 200_000)
    JsonLines(path).repair()
    numbers = [line["number"] for line in lines_of(path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 300


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    lines.write(line_of("", {"a": 1}))
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, piece: write(file, piece[:4]))
    with pytest.raises(OSError, match="no space left: 4 of 9 bytes"):
        lines.write(line_of("", {"a": 2}))
    monkeypatch.undo()
    assert lines_of(path) == [{"a": 1}]


def test_a_link_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("keep me\nand me")
    path = tmp_path / "metrics.jsonl"
    path.symlink_to(target)
    lines = JsonLines(path)
    for act in (lambda: lines.write(line_of("", {})), lines.repair, lambda: lines.cut(3)):
        with pytest.raises(OSError, match="symbolic links"):
            act()
    assert target.read_text() == "keep me\nand me"


def test_files_have_the_permissions_of_the_user(tmp_path):
    Path(tmp_path, "plain").touch()
    JsonLines(tmp_path / "metrics.jsonl").write(line_of("", {}))
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
