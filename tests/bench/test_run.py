"""Running cases leaves a table on the console and a JSON file each."""

import json
from io import StringIO

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from mlo import cli
from mlo.bench import command
from mlo.bench.case import Case, Result, Settings
from mlo.bench.programs import BenchmarkError
from mlo.bench.run import run_cases


@pytest.fixture
def console():
    return Console(width=120, file=StringIO())


def counting(name, seen):
    def run(settings):
        seen.append((name, settings, torch.get_num_threads()))
        return Result(title=f"title of {name}", rows=[{"n": len(seen)}], notes=(f"note of {name}",))

    return Case(name=name, summary=f"summary of {name}", run=run)


def failing(settings):
    raise BenchmarkError("they are not equal")


def test_each_case_prints_its_table_and_writes_its_file(tmp_path, console):
    seen = []
    settings = Settings(quick=True, out=tmp_path / "new" / "folder")
    run_cases([counting("one", seen), counting("two", seen)], settings, console)
    text = console.file.getvalue()
    for number, name in enumerate(["one", "two"], 1):
        assert f"{name}: summary of {name}" in text
        assert f"title of {name}" in text
        assert f"note of {name}" in text
        content = json.loads((settings.out / f"{name}.json").read_text())
        assert (content["case"], content["rows"]) == (name, [{"n": number}])
    assert sorted(p.name for p in settings.out.iterdir()) == ["one.json", "two.json"]


def test_a_case_runs_on_the_threads_of_the_settings_and_leaves_those_before(tmp_path, console):
    before, seen = torch.get_num_threads(), []
    run_cases([counting("one", seen)], Settings(threads=2, out=tmp_path), console)
    assert seen[0][2] == 2
    assert torch.get_num_threads() == before


def test_a_case_that_fails_leaves_the_results_of_the_last_run(tmp_path, console):
    (tmp_path / "one.json").write_text("the last run")
    case = Case(name="one", summary="fails", run=failing)
    with pytest.raises(BenchmarkError, match="not equal"):
        run_cases([case], Settings(out=tmp_path), console)
    assert [p.name for p in tmp_path.iterdir()] == ["one.json"]
    assert (tmp_path / "one.json").read_text() == "the last run"


@pytest.fixture
def invoke(monkeypatch):
    monkeypatch.setattr(command, "chosen", lambda names: [counting("one", [])])
    return lambda *arguments: CliRunner().invoke(cli.app, ["bench", *arguments])


def test_the_command_writes_where_it_is_told(invoke, tmp_path):
    found = invoke("one", "--quick", "--device", "cpu", "--out", str(tmp_path))
    assert found.exit_code == 0, found.output
    assert json.loads((tmp_path / "one.json").read_text())["settings"]["quick"] is True
    assert "title of one" in found.output


def test_the_command_lists_cases_and_runs_none(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = invoke("--list")
    assert found.exit_code == 0
    assert found.output.splitlines() == command.listing().splitlines()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_case_is_a_wrong_command(tmp_path):
    found = CliRunner().invoke(cli.app, ["bench", "level", "--out", str(tmp_path / "new")])
    assert found.exit_code == 2
    assert "did you mean 'levels'?" in found.output
    assert not (tmp_path / "new").exists()


def test_an_unknown_device_is_refused(invoke, tmp_path):
    found = invoke("one", "--device", "abacus", "--out", str(tmp_path / "new"))
    assert found.exit_code == 1
    assert "abacus" in found.output
    assert not (tmp_path / "new").exists()
