"""Every example runs by the command line, at small size, and is as short as it claims."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlo import registry
from mlo.cli import app

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
SMALL = {
    "weight_decay": ["num_noise=16", "rounds=2", "grid=[0.001]"],
    "reweighting": ["num_train=200", "rounds=3"],
    "teacher_student": ["rounds=2"],
}


def run(name: str, directory: Path, *overrides: str) -> dict[str, Any]:
    """Run an example as a user would and return its result."""
    arguments = ["run", str(EXAMPLES / f"{name}.py"), "--out", str(directory)]
    for override in overrides:
        arguments += ["--set", override]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    result: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return result


def test_every_example_is_tested() -> None:
    assert set(SMALL) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_has_its_configuration(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 100
    assert (EXAMPLES / f"{name}.yaml").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_and_writes_a_comparison(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    result = run(name, directory, *SMALL[name])
    assert result
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    assert all("round" in json.loads(line) for line in lines)
    assert (directory / "config.yaml").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_can_be_shown(name: str) -> None:
    outcome = CliRunner().invoke(app, ["show", str(EXAMPLES / f"{name}.py")])
    assert outcome.exit_code == 0, outcome.output
    assert "sweeps" in outcome.output
    assert "flowchart" in outcome.output


def test_the_chain_has_three_levels() -> None:
    program = registry.load(str(EXAMPLES / "teacher_student.py"))
    graph = program.graph(program.config(seed=0, rounds=1))
    assert len(set(graph.levels.values())) == 3
