"""A comparison that is stopped anywhere and goes on ends as one that was not."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlo import config
from mlo.record import Record
from mlo.run_directory import State
from mlo_lbg import trainer
from mlo_lbg.program import program

SETTINGS = [
    "seeds=1",
    "methods=[single, bagging, lbg_soft, kmeans]",
    "checkpoint_every=7",
    "rows.single.epochs=4",
    "rows.bagging.epochs=3",
    "rows.kmeans.epochs=2",
    "rows.lbg_soft.search.rounds=45",
    "rows.lbg_soft.search.patience=2",
    "rows.lbg_soft.retrain.epochs=3",
]


def settings() -> Any:
    return config.load(program.config, defaults=program.defaults, overrides=SETTINGS)


def without_times(path: Path) -> Any:
    result = json.loads(path.read_text())
    for run in result["runs"]:
        del run["seconds"]
    for row in result["table"].values():
        del row["seconds"]
    return result


class StopError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("straight") / "run"
    record = Record.create(directory, console=Console(file=io.StringIO()))
    program.run(settings(), record)
    record.close()
    return directory


@pytest.mark.parametrize("stops", [[3], [30], [60, 61], [95], [100, 130, 170]])
def test_stopped_and_resumed_is_the_same(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, stops: list[int]
) -> None:
    """Stops are counted in rounds of all training runs together."""
    rounds = 0
    real = trainer.mlo.Engine

    class Counted(real):  # type: ignore[misc, valid-type]
        def rounds(self, *arguments: Any, **options: Any) -> Any:
            nonlocal rounds
            for done in super().rounds(*arguments, **options):
                rounds += 1
                if rounds in stops:
                    raise StopError
                yield done

    monkeypatch.setattr(trainer.mlo, "Engine", Counted)
    directory, quiet = tmp_path / "run", Console(file=io.StringIO())
    record = Record.create(directory, console=quiet)
    for _ in stops:
        with pytest.raises(StopError):
            program.run(settings(), record)
        record.close(State.FAILED)
        record = Record.resume(directory, console=quiet)
    program.run(settings(), record)
    record.close()
    assert (directory / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    assert without_times(directory / "result.json") == without_times(straight / "result.json")
    assert not list((directory / "checkpoints").rglob("*.mlo"))
