"""What is done is read and not made again; what was under way is cut off the record."""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from mlo.errors import RunError
from mlo.record import Record
from mlo.run_directory import State
from mlo_lbg.ledger import Ledger


@dataclass(frozen=True)
class Result:
    name: str
    errors: tuple[float, ...]


QUIET = Console(file=io.StringIO())


def test_results_come_back_exactly_and_the_record_is_cut_back(tmp_path: Path) -> None:
    record = Record.create(tmp_path / "run", console=QUIET)
    ledger = Ledger(record, Result)
    first = Result("a", (0.1, math.inf, 1 / 3))
    record.metrics(run="a")
    ledger.write("a/seed-0", first)
    record.metrics(run="b, begun")
    record.close(State.INTERRUPTED)
    again = Record.resume(tmp_path / "run", console=QUIET)
    resumed = Ledger(again, Result)
    assert resumed.read("a/seed-0") == first
    assert resumed.read("b/seed-0") is None
    assert (tmp_path / "run/metrics.jsonl").read_text() == '{"run": "a"}\n'
    again.close()


def test_nothing_done_means_that_everything_is_made_again(tmp_path: Path) -> None:
    record = Record.create(tmp_path / "run", console=QUIET)
    Ledger(record, Result)
    record.metrics(run="a, begun")
    record.close(State.INTERRUPTED)
    again = Record.resume(tmp_path / "run", console=QUIET)
    Ledger(again, Result)
    assert (tmp_path / "run/metrics.jsonl").read_text() == ""
    again.close()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"place": 0, "position": {}, "result": 3}'])
def test_a_damaged_result_is_named(tmp_path: Path, content: str) -> None:
    record = Record.create(tmp_path / "run", console=QUIET)
    Ledger(record, Result).write("a", Result("a", ()))
    record.close(State.INTERRUPTED)
    (tmp_path / "run/done/a.json").write_text(content)
    again = Record.resume(tmp_path / "run", console=QUIET)
    with pytest.raises(RunError, match=r"a.json' is no result of this program") as caught:
        Ledger(again, Result)
    assert "\n" not in str(caught.value)
    again.close()
