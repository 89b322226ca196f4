"""The command line: what it prints, what it leaves behind, and its exit codes."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from mlo import cli, registry

PROGRAM = """
from typing import Literal

import torch
from torch import nn

import mlo
from mlo.config import Config
from mlo.program import Program


class Settings(Config):
    steps: int = 3
    then: Literal["finish", "crash", "refuse", "fail", "interrupt"] = "finish"


def graph(config):
    model = mlo.Problem(name="model", module=nn.Linear(1, 1), steps=config.steps,
                        loss=lambda model, weight: model.weight.sum() * weight.weight.exp().sum())
    return mlo.Graph(model, mlo.Problem(name="weight", module=nn.Linear(1, 1),
                                        loss=lambda model: model.weight.square().sum()))


def run(config, record):
    if config.then == "refuse":
        raise mlo.ConfigError("steps: expected an even number, got 3")
    for step in range(config.steps):
        record.metrics(step=step)
    if config.then == "crash":
        raise RuntimeError("a bug")
    if config.then == "fail":
        raise mlo.GraphError("a graph that cannot be")
    if config.then == "interrupt":
        raise KeyboardInterrupt
    record.result({"steps": torch.tensor(config.steps)})
    record.print("counted to", str(config.steps))


program = Program(summary="Count.", config=Settings, graph=graph, run=run)
"""

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "count.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.app(list(arguments))
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, captured.out, captured.err

    return invoke


def runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*"))


def test_run_writes_a_record(invoke: Invoke, folder: Path) -> None:
    code, out, err = invoke("run", "count.py", "--set", "steps=2", "--out", "here")
    assert (code, err) == (0, "")
    assert "counted to 2" in out
    assert "results go to here" in out
    assert (folder / "here/config.yaml").read_text() == "steps: 2\nthen: finish\n"
    assert (folder / "here/metrics.jsonl").read_text() == '{"step": 0}\n{"step": 1}\n'
    assert json.loads((folder / "here/result.json").read_text()) == {"steps": 2}


def test_each_run_gets_its_own_directory(invoke: Invoke, folder: Path) -> None:
    for _ in range(3):
        assert invoke("run", "count.py")[0] == 0
    assert len(runs(folder)) == 3
    assert all(path.name.startswith("count-2") for path in runs(folder))


def test_sources_of_values(invoke: Invoke, folder: Path) -> None:
    (folder / "count.yaml").write_text("steps: 5")
    (folder / "mine.yaml").write_text("steps: 6")
    for arguments, steps in [
        ([], 5),
        (["--config", "mine.yaml"], 6),
        (["--config", "mine.yaml", "--set", "steps=7"], 7),
    ]:
        code, out, _ = invoke("show", "count.py", *arguments)
        assert code == 0
        assert f"steps: {steps}" in out


def test_show_prints_configuration_and_graph_and_runs_nothing(invoke: Invoke, folder: Path) -> None:
    code, out, err = invoke("show", "count.py")
    assert (code, err) == (0, "")
    assert "count.py: Count." in out
    assert "steps: 3\nthen: finish\n" in out
    assert "weight" in out
    assert "flowchart" in out or "graph" in out
    assert not runs(folder)


def test_list_names_programs_and_where_they_come_from(invoke: Invoke) -> None:
    code, out, err = invoke("list")
    assert (code, err) == (0, "")
    assert f"lbg  mlo-framework {version('mlo-framework')} (mlo_lbg.program:program)" in out


def test_list_without_programs(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "GROUP", "mlo.no_such_group")
    assert invoke("list") == (0, "", "no programs are registered\n")


def test_list_reports_ambiguous_names(
    invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = folder / "imitation-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imitation\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[mlo.programs]\nlbg = imitation:program\n")
    monkeypatch.syspath_prepend(str(folder))
    code, out, err = invoke("list")
    assert code == 0
    assert out.count("lbg ") == 1
    assert err.startswith("mlo: warning: program 'lbg' is registered by ")


def test_version(invoke: Invoke) -> None:
    assert invoke("--version") == (0, f"mlo {version('mlo-framework')}\n", "")


@pytest.mark.parametrize("command", ["run", "show"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lgb"], "no program 'lgb' (did you mean 'lbg'?)"),
        (["absent.py"], "no program file 'absent.py'"),
        (["count.py", "--set", "step=1"], "step: unknown key (did you mean 'steps'?), from --set"),
        (["count.py", "--set", "steps=1.5"], "steps: expected an integer, got 1.5, from --set"),
        (["count.py", "--set", "steps"], "--set steps: expected KEY=VALUE, found no '='"),
        (["count.py", "--config", "absent.yaml"], "cannot read absent.yaml: No such file"),
        (["count.py", "--config", "count.py"], "count.py: "),
    ],
)
def test_users_mistake_is_one_line_and_leaves_nothing(
    invoke: Invoke, folder: Path, command: str, arguments: list[str], message: str
) -> None:
    before = set(folder.rglob("*"))
    code, out, err = invoke(command, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"mlo: error: {message}")
    assert err.count("\n") == 1
    assert {path for path in folder.rglob("*") if "__pycache__" not in path.parts} == before


def test_occupied_directory_is_refused(invoke: Invoke, folder: Path) -> None:
    assert invoke("run", "count.py", "--out", "here")[0] == 0
    content = (folder / "here/metrics.jsonl").read_text()
    code, _, err = invoke("run", "count.py", "--out", "here", "--set", "steps=1")
    assert code == 2
    assert err.startswith("mlo: error: run directory 'here': expected a new or an empty one")
    assert (folder / "here/metrics.jsonl").read_text() == content


def test_value_that_only_the_program_can_refuse_leaves_no_directory(
    invoke: Invoke, folder: Path
) -> None:
    code, _, err = invoke("run", "count.py", "--set", "then=refuse", "--out", "here")
    assert (code, err) == (2, "mlo: error: steps: expected an even number, got 3\n")
    assert not (folder / "here").exists()
    (folder / "mine").mkdir()
    assert invoke("run", "count.py", "--set", "then=refuse", "--out", "mine")[0] == 2
    assert not list((folder / "mine").iterdir())


def test_failing_run_is_one_line_and_keeps_its_record(invoke: Invoke, folder: Path) -> None:
    code, _, err = invoke("run", "count.py", "--set", "then=fail", "--out", "here")
    assert (code, err) == (1, "mlo: error: a graph that cannot be\n")
    assert (folder / "here/metrics.jsonl").exists()


def test_interrupt_is_one_line(invoke: Invoke, folder: Path) -> None:
    code, _, err = invoke("run", "count.py", "--set", "then=interrupt", "--out", "here")
    assert (code, err) == (130, "mlo: interrupted\n")
    assert (folder / "here/metrics.jsonl").exists()


def test_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        cli.app(["run", "count.py", "--set", "then=crash"])


@pytest.mark.parametrize(
    "arguments", [["run"], ["rnu", "lbg"], ["run", "count.py", "--sett", "a=1"], ["show"]]
)
def test_wrong_command_exits_with_2(invoke: Invoke, arguments: list[str]) -> None:
    code, out, err = invoke(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_logs_are_wider_than_an_imagined_terminal(
    invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = PROGRAM.replace('"counted to", str(config.steps)', '"-" * 150')
    (folder / "wide.py").write_text(wide)
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "-" * 150 in invoke("run", "wide.py")[1]
    monkeypatch.setenv("COLUMNS", "100")
    assert "-" * 101 not in invoke("run", "wide.py")[1]


def test_module_crash_shows_the_traceback_and_exits_with_1() -> None:
    command = [sys.executable, "-m", "mlo", "run", "count.py", "--set", "then=crash"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: a bug\n")


def test_ctrl_c_ends_a_process_with_one_line_and_130(folder: Path) -> None:
    waiting = PROGRAM.replace("raise KeyboardInterrupt", "print('ready', flush=True); input()")
    (folder / "wait.py").write_text(waiting)
    command = [sys.executable, "-m", "mlo", "run", "wait.py", "--set", "then=interrupt"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background may have been started with interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err == "mlo: interrupted\n"
