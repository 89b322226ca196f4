"""The record of a run: what it writes, in which form, and what it refuses."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from mlo.errors import ConfigError, ProgramError, RunError
from mlo.record import Record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.create(tmp_path / "runs" / "one", console=Console(file=io.StringIO(), width=80))


def written(record: Record) -> list[str]:
    """Return what the record holds beside what every run directory does."""
    names = [path.name for path in record.directory.iterdir()]
    return [name for name in names if name not in ("run.json", "run.lock")]


def strict_json(text: str) -> object:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def metrics(record: Record) -> list[object]:
    return [strict_json(line) for line in record.path("metrics.jsonl").read_text().splitlines()]


def test_directory_is_made_with_its_parents(record: Record) -> None:
    assert record.directory.is_dir()
    assert not written(record)


def test_empty_directory_is_taken(tmp_path: Path) -> None:
    assert Record.create(tmp_path, console=Console()).directory == tmp_path


def test_nothing_is_overwritten(record: Record) -> None:
    record.text("config.yaml", "a: 1\n")
    with pytest.raises(ConfigError, match="expected a new or an empty one") as caught:
        Record.create(record.directory, console=record.console)
    assert str(record.directory) in str(caught.value)
    assert record.path("config.yaml").read_text() == "a: 1\n"


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"^cannot make the run directory "):
            Record.create(directory, console=Console())


def test_metrics_are_appended_and_complete_at_once(record: Record) -> None:
    record.metrics(round=1, loss=0.5)
    record.metrics(round=2, note="line\nbreak", group=None, ok=True)
    assert metrics(record) == [
        {"round": 1, "loss": 0.5},
        {"round": 2, "note": "line\nbreak", "group": None, "ok": True},
    ]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (torch.tensor(2), 2),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (torch.tensor([1.0, float("nan")], dtype=torch.bfloat16), [1.0, "nan"]),
        (torch.tensor(True), True),
        (np.float32(0.5), 0.5),
        (np.float64("inf"), "inf"),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ({1: (float("inf"), [np.float64(2)])}, {"1": ["inf", [2.0]]}),
        (Path("a") / "b", os.path.join("a", "b")),  # noqa: PTH118  # the separator is what is tested
    ],
)
def test_values_become_plain_json(record: Record, value: object, written: object) -> None:
    record.metrics(value=value)
    record.result({"value": value})
    assert metrics(record) == [{"value": written}]
    assert strict_json(record.path("result.json").read_text()) == {"value": written}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, torch.tensor(1j), print])
def test_value_without_a_form_in_json_is_refused(record: Record, value: object) -> None:
    with pytest.raises(ProgramError, match=r"^metrics\.curve\.0: expected a number"):
        record.metrics(curve=[value])
    assert not written(record)


def test_any_nested_value_is_one_valid_line(record: Record) -> None:
    count = 0

    @given(st.recursive(st.floats() | st.text() | st.integers() | st.none(), st.lists))
    def check(value: object) -> None:
        nonlocal count
        record.metrics(value=value)
        count += 1
        assert len(metrics(record)) == count

    check()


def test_result_is_replaced_as_a_whole(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    record.result({"error": 0.1})

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunError, match=r"^cannot write .*No space left on device$"):
        record.result({"error": 0.2, "long": "x" * 10_000})
    assert strict_json(record.path("result.json").read_text()) == {"error": 0.1}
    assert written(record) == ["result.json"]


def test_reader_of_the_old_result_never_sees_half_of_the_new_one(record: Record) -> None:
    record.result({"error": 0.1})
    with record.path("result.json").open() as reader:
        record.result({"error": 0.2})
        assert strict_json(reader.read()) == {"error": 0.1}
    assert strict_json(record.path("result.json").read_text()) == {"error": 0.2}


def test_files_have_the_permissions_of_the_user(record: Record) -> None:
    record.text("table.txt", "é\n")
    plain = record.path("plain.txt")
    plain.touch()
    assert record.path("table.txt").stat().st_mode == plain.stat().st_mode
    assert record.path("table.txt").read_bytes() == "é\n".encode()


def test_path_makes_folders_inside(record: Record) -> None:
    path = record.path("figures/curves.png")
    assert path.parent.is_dir()
    assert path == record.directory / "figures" / "curves.png"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ".", "", "a/.."])
def test_path_stays_inside(record: Record, name: str) -> None:
    with pytest.raises(ProgramError, match="expected a name inside the run directory"):
        record.path(name)
    with pytest.raises(ProgramError, match="expected a name inside the run directory"):
        record.text(name, "")


def test_path_does_not_follow_links_out(record: Record, tmp_path: Path) -> None:
    (record.directory / "out").symlink_to(tmp_path)
    with pytest.raises(ProgramError, match="inside the run directory"):
        record.path("out/x")


def test_print_keeps_brackets_and_renders_tables(record: Record) -> None:
    table = Table("group", "load")
    table.add_row("0", "0.5")
    record.print("groups [0] and [bold]1[/bold]", table)
    stream = record.console.file
    assert isinstance(stream, io.StringIO)
    assert "groups [0] and [bold]1[/bold]" in stream.getvalue()
    assert "│ 0     │ 0.5  │" in stream.getvalue()
