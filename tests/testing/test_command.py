"""`mlo check`: what it prints and how it exits."""

from pathlib import Path

import pytest

from mlo import cli

PROGRAM = """
from typing import Literal

from torch import nn

import mlo
from mlo.config import Config
from mlo.program import Program


class Settings(Config):
    response: Literal["right", "wrong", "none", "broken"] = "right"


def fit(x, a, batch):
    return (x.weight - a.weight * batch).square().sum()


def graph(config):
    response = {"right": mlo.exact(), "wrong": mlo.neumann(terms=2, rate=3.0)}.get(config.response)
    if config.response == "broken":
        raise mlo.GraphError("a graph that cannot be")
    if config.response == "none":
        alone = lambda a: a.weight.square().sum()
        return mlo.Graph(mlo.Problem(name="a", module=nn.Linear(1, 1, bias=False), loss=alone))
    return mlo.Graph(
        mlo.Problem(name="x", module=nn.Linear(1, 1, bias=False), loss=fit, response=response,
                    batches=[2.0]),
        mlo.Problem(name="a", module=nn.Linear(1, 1, bias=False),
                    loss=lambda x: x.weight.exp().sum()),
    )


def run(config, record): ...


program = Program(summary="Fit.", config=Settings, graph=graph, run=run)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fit.py").write_text(PROGRAM)


@pytest.fixture
def invoke(capsys):
    def invoke(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.app(["check", "fit.py", *arguments])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return invoke


def test_a_right_program_passes_and_shows_its_numbers(invoke):
    code, out, err = invoke("--set", "response=right", "--directions", "1")
    assert code == 0
    assert err == ""
    assert "hypergradient of 'a'" in out
    assert "eigenvalues" in out
    assert "along 1 random direction" in out


def test_the_exit_code_tells_whether_it_passed(invoke):
    assert invoke()[0] == 0
    code, out, _ = invoke("--set", "response=wrong")
    assert code == 1
    assert "FAILED" in out
    assert "above 2/λ_max" in out
    assert list(Path().glob("runs/*")) == []


def test_warnings_fail_a_strict_check_only(invoke):
    # Untrained parameters are seldom at the solution.
    code, out, _ = invoke()
    assert "not at its solution now" in out
    assert code == 0
    assert invoke("--strict")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--problem", "b"], 1, "no problem is called 'b'"),
        (["--problem", "x"], 1, "no lower problem responds to it"),
        (["--directions", "0"], 1, "directions must be an integer >= 1, got 0"),
        (["--set", "response=none"], 1, "nothing to check"),
        (["--set", "response=broken"], 1, "a graph that cannot be"),
        (["--set", "response=odd"], 2, "response"),
    ],
)
def test_misuse_is_one_line(invoke, arguments, code, message):
    found, out, err = invoke(*arguments)
    assert found == code
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1
