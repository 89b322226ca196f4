"""The loop round an engine: its length, what it records and saves, what it goes on from."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

import mlo
from mlo import Checkpoints, Engine, Graph, MloError, Problem
from mlo.errors import CheckpointError
from mlo.record import Record
from mlo.run_directory import State
from tests.programs import Vector, same_bits, snapshot
from tests.stateful_programs import reweighting, same_tree


def falling(batches=(1.0,), lr=0.25):
    """Halve x each round: its loss is 1, 1/4, 1/16, ..."""
    return Graph(
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lambda x, batch: (x.value * batch).square().sum(),
            batches=list(batches),
            optimizer=lambda p: torch.optim.SGD(p, lr=lr),
        )
    )


class Watched:
    """A record that notes what is asked of it."""

    console, directory = None, Path("nowhere")

    def __init__(self):
        # Nothing is saved in this directory, so nothing there tells of a later position.
        self.directory = Path("nowhere")
        self.calls = []

    def scalars(self, values, *, step):
        self.calls.append(("scalars", step, dict(values)))

    def position(self):
        self.calls.append(("position", len(self.calls)))
        return {"calls": len(self.calls)}

    def rewind(self, position):
        self.calls.append(("rewind", position))

    @property
    def steps(self):
        return [call[1] for call in self.calls if call[0] == "scalars"]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def files(*rounds):
    return [f"round-{number:09}.mlo" for number in rounds]


# How long


def test_rounds_are_counted_from_here_and_until_from_the_beginning():
    engine = Engine(falling(), device="cpu")
    assert engine.run(3, show_progress=False).number == 3
    assert engine.run(rounds=2, show_progress=False).number == 5
    assert engine.run(until=7, show_progress=False).number == 7
    assert engine.round == 7


@pytest.mark.parametrize("until", [3, 1])
def test_a_run_that_is_done_does_nothing(until, tmp_path):
    engine, record = Engine(falling(), device="cpu"), Watched()
    engine.run(3, show_progress=False)
    before = snapshot(engine.graph)
    last = engine.run(until=until, record=record, show_progress=False)
    assert (last.number, last.losses, engine.round) == (3, {}, 3)
    assert record.calls == []
    assert same_bits(snapshot(engine.graph), before)


def test_the_last_round_is_returned():
    last = Engine(falling(), device="cpu").run(3, show_progress=False)
    assert float(last.losses["x"]) == 1 / 16


@pytest.mark.parametrize("length", [{}, {"rounds": 1, "until": 2}, {"rounds": None, "until": None}])
def test_either_rounds_or_until(length):
    with pytest.raises(MloError, match=r"^give either rounds or until, got rounds="):
        Engine(falling(), device="cpu").run(**length)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
@pytest.mark.parametrize("field", ["rounds", "until", "record_every"])
def test_a_count_that_cannot_be(field, value):
    engine = Engine(falling(), device="cpu")
    others = {"rounds": 1} if field == "record_every" else {}
    with pytest.raises(MloError, match=f"^{field} must be an integer >= 1, got {value!r}"):
        engine.run(**others, **{field: value})
    assert engine.round == 0


@pytest.mark.parametrize("value", ["runs/one", True, {"every": 3}])
def test_what_are_no_checkpoints(value):
    with pytest.raises(
        MloError, match=r"^checkpoints must be mlo.Checkpoints\(directory=...\), go"
    ):
        Engine(falling(), device="cpu").run(1, checkpoints=value)


def test_a_live_display_changes_nothing(capsys):
    graphs = [falling(), falling()]
    for graph, shown in zip(graphs, (False, True), strict=True):
        Engine(graph, device="cpu").run(5, show_progress=shown)
    assert same_bits(*map(snapshot, graphs))
    assert capsys.readouterr().out == ""


# What is recorded


def test_a_line_is_recorded_now_and_then_and_after_the_last_round():
    record = Watched()
    Engine(falling(), device="cpu").run(7, record=record, record_every=3, show_progress=False)
    assert record.steps == [3, 6, 7]
    assert record.calls[0] == ("scalars", 3, {"loss/x": 1 / 16, "rate/x": 0.25})


def test_lines_go_by_the_number_of_the_round_not_by_the_call():
    engine, record = Engine(falling(), device="cpu"), Watched()
    engine.run(2, show_progress=False)
    engine.run(3, record=record, record_every=4, show_progress=False)
    assert record.steps == [4, 5]


def test_a_line_is_recorded_before_the_state_that_refers_to_it(tmp_path):
    record = Watched()
    Engine(falling(), device="cpu").run(
        4,
        record=record,
        record_every=2,
        checkpoints=Checkpoints(directory=tmp_path, every=2),
        show_progress=False,
    )
    kinds = [call[:2] for call in record.calls if call[0] == "scalars" or call[1] > 0]
    assert [kind for kind, _ in kinds] == ["scalars", "position", "scalars", "position"]


def test_a_resumed_run_writes_the_record_of_an_uninterrupted_one(tmp_path):
    def go(directory, *lengths):
        for position, until in enumerate(lengths):
            console = Console(file=io.StringIO())
            make = Record.create if position == 0 else Record.resume
            record = make(directory, console=console)
            engine = Engine(falling(), device="cpu")
            engine.run(
                until=until,
                record=record,
                record_every=1,
                checkpoints=record.checkpoints(every=4),
                resume=position > 0,
                show_progress=False,
            )
            if position < len(lengths) - 1:
                # As if it had died later: these lines are about to be written again.
                record.scalars({"loss/x": 1e9}, step=until + 1)
            record.close(State.INTERRUPTED)
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    whole = go(tmp_path / "whole", 9)
    assert [line["step"] for line in whole] == list(range(1, 10))
    parts = go(tmp_path / "parts", 4, 7, 9)
    assert parts == whole


# What is saved


def test_states_are_saved_now_and_then_and_after_the_last_round(tmp_path):
    checkpoints = Checkpoints(directory=tmp_path, every=3, keep=9)
    Engine(falling(), device="cpu").run(7, checkpoints=checkpoints, show_progress=False)
    assert names(tmp_path) == files(3, 6, 7)


def test_a_record_has_a_state_to_go_back_to_from_the_beginning(tmp_path):
    """Lines of a run that dies before its first checkpoint are cut off too."""
    checkpoints = Checkpoints(directory=tmp_path, every=100)

    def die(done):
        raise RuntimeError

    record = Watched()
    with pytest.raises(RuntimeError):
        Engine(falling(), device="cpu").run(
            5,
            record=record,
            checkpoints=checkpoints,
            callbacks=mlo.Callbacks(after_round=die),
            show_progress=False,
        )
    assert names(tmp_path) == files(0)
    engine = Engine(falling(), device="cpu")
    engine.run(until=2, record=record, checkpoints=checkpoints, resume=True, show_progress=False)
    assert ("rewind", {"calls": 1}) in record.calls
    assert engine.round == 2


def test_what_is_saved_is_the_engine_after_that_round(tmp_path):
    make = reweighting()
    engine, other = make(0), make(1)
    checkpoints = Checkpoints(directory=tmp_path, every=2)
    engine.run(4, checkpoints=checkpoints, show_progress=False)
    expected = engine.state_dict()
    found = checkpoints.load()
    assert (found.round, found.score) == (4, None)
    assert sorted(found.state) == ["engine", "record", "stopped", "stopping"]
    other.load_state_dict(found.state["engine"])
    assert same_tree(other.state_dict(), expected)


@pytest.mark.parametrize("measure", ["x", lambda done: float(done.losses["x"])])
def test_the_best_state_is_kept_beside_the_last(measure, tmp_path):
    """The loss is lowest in the second round."""
    graph = falling(batches=[1.0, 0.1, 0.9, 0.8, 0.7], lr=1e-9)
    checkpoints = Checkpoints(directory=tmp_path, every=1, keep=1)
    Engine(graph, device="cpu").run(5, checkpoints=checkpoints, score=measure, show_progress=False)
    assert names(tmp_path) == files(2, 5)
    assert checkpoints.best().name == files(2)[0]
    assert checkpoints.load(checkpoints.best()).score == pytest.approx(0.01, rel=1e-6)


def test_a_state_without_a_score_is_not_the_best(tmp_path):
    graph = Graph(
        Problem(
            name="x",
            module=Vector(0.5),
            loss=lambda x, a: (x.value - a.value).square().sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            response=mlo.identity(),
        ),
        Problem(
            name="a",
            module=Vector(1.0),
            loss=lambda x: (x.value + 9).square().sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            warmup=2,
        ),
    )
    checkpoints = Checkpoints(directory=tmp_path, every=1, keep=9)
    Engine(graph, device="cpu").run(3, checkpoints=checkpoints, score="a", show_progress=False)
    assert [checkpoints.load(path).score is None for path in checkpoints.paths()] == [
        True,
        True,
        False,
    ]
    assert checkpoints.best().name == files(3)[0]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("y", r"^score: there is no problem 'y', expected one of \('x',\)"),
        (3, r"^score must be the name of a problem or a function of a round, got int"),
    ],
)
def test_a_score_that_cannot_be(score, message, tmp_path):
    engine = Engine(falling(), device="cpu")
    with pytest.raises(MloError, match=message):
        engine.run(500, checkpoints=Checkpoints(directory=tmp_path), score=score)
    assert engine.round == 0


def test_nothing_is_saved_of_a_round_that_is_not_finite(tmp_path):
    checkpoints = Checkpoints(directory=tmp_path, every=2)
    engine = Engine(falling(batches=[1.0, 1.0, 1.0, torch.nan]), device="cpu")
    with pytest.raises(mlo.NonFiniteError, match="problem 'x', round 4: loss is nan"):
        engine.run(9, checkpoints=checkpoints, show_progress=False)
    assert names(tmp_path) == files(2)
    # From there the run goes on as far as it came.
    again = Engine(falling(batches=[1.0, 1.0, 1.0, torch.nan]), device="cpu")
    with pytest.raises(mlo.NonFiniteError, match="round 4"):
        again.run(until=9, checkpoints=checkpoints, resume=True, show_progress=False)


@pytest.fixture
def deferred(monkeypatch):
    """Run as on an accelerator, where no number may be waited for."""
    for module in ("engine", "updater"):
        monkeypatch.setattr(f"mlo.{module}.synchronous", lambda device: False)


@pytest.mark.usefixtures("deferred")
def test_a_bad_update_that_nobody_has_looked_at_is_not_saved(tmp_path):
    checkpoints = Checkpoints(directory=tmp_path, every=2)
    engine = Engine(falling(batches=[1.0, 1.0, torch.nan, 1.0, 1.0]), device="cpu")
    with pytest.raises(mlo.NonFiniteError, match="problem 'x', round 3"):
        engine.run(5, checkpoints=checkpoints, show_progress=False)
    assert names(tmp_path) == files(2)
    assert engine.round == 4


@pytest.mark.usefixtures("deferred")
def test_a_bad_update_is_told_even_if_the_run_stops_early():
    engine = Engine(falling(batches=[1.0, torch.nan, 1.0]), device="cpu")
    with pytest.raises(mlo.NonFiniteError, match="problem 'x', round 2"):
        engine.run(5, stopping=lambda done: done.number == 3, show_progress=False)


def test_a_worker_that_dies_somewhere_in_a_round_is_named():
    """torch raises it in the main thread, wherever that stands."""

    def die(name, swept):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")

    engine = Engine(falling(), device="cpu")
    with pytest.raises(mlo.BatchError, match="killed") as caught:
        engine.run(3, callbacks=mlo.Callbacks(after_update=die), show_progress=False)
    assert "\n" not in str(caught.value)
    assert engine.round == 0


# What a run goes on from


def test_states_of_another_run_are_refused_and_stay(tmp_path):
    checkpoints = Checkpoints(directory=tmp_path, every=1)
    Engine(falling(), device="cpu").run(2, checkpoints=checkpoints, show_progress=False)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    engine = Engine(falling(), device="cpu")
    with pytest.raises(
        CheckpointError, match="holds the checkpoints of another run; give resume=T"
    ):
        engine.run(2, checkpoints=checkpoints, show_progress=False)
    assert engine.round == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_engine_goes_on_with_states_of_its_own(tmp_path):
    checkpoints = Checkpoints(directory=tmp_path, every=1, keep=9)
    engine = Engine(falling(), device="cpu")
    for _ in range(2):
        engine.run(2, checkpoints=checkpoints, show_progress=False)
    assert names(tmp_path) == files(1, 2, 3, 4)


def test_resuming_where_there_is_nothing_begins(tmp_path):
    graphs = [falling(), falling()]
    Engine(graphs[0], device="cpu").run(3, show_progress=False)
    checkpoints = Checkpoints(directory=tmp_path / "new")
    Engine(graphs[1], device="cpu").run(
        3, checkpoints=checkpoints, resume=True, show_progress=False
    )
    assert same_bits(*map(snapshot, graphs))


def test_resuming_takes_checkpoints():
    with pytest.raises(MloError, match=r"^resume=True takes checkpoints=\.\.\., got None"):
        Engine(falling(), device="cpu").run(1, resume=True)


def test_the_rounds_of_a_resumed_run(tmp_path):
    """`until` makes up what is left, `rounds` adds to it."""
    checkpoints = Checkpoints(directory=tmp_path, every=2)
    options = {"checkpoints": checkpoints, "show_progress": False}
    Engine(falling(), device="cpu").run(3, **options)
    assert Engine(falling(), device="cpu").run(until=5, resume=True, **options).number == 5
    assert Engine(falling(), device="cpu").run(until=5, resume=True, **options).number == 5
    assert Engine(falling(), device="cpu").run(rounds=2, resume=True, **options).number == 7


def test_a_state_of_another_program_is_refused_by_its_path(tmp_path):
    checkpoints = Checkpoints(directory=tmp_path)
    reweighting()(0).run(1, checkpoints=checkpoints, show_progress=False)
    engine = Engine(falling(), device="cpu")
    message = r"^checkpoint '.*round-000000001.mlo': problems: the checkpoint has 'model', which"
    with pytest.raises(CheckpointError, match=message) as caught:
        engine.run(until=3, checkpoints=checkpoints, resume=True)
    assert "\n" not in str(caught.value)
    assert (engine.round, engine.graph.problem("x").module.value.item()) == (0, 1.0)


@pytest.mark.parametrize("state", [None, 3, [], {}, {"engine": {}}, {"engine": None}], ids=repr)
def test_a_file_that_holds_something_else(state, tmp_path):
    checkpoints = Checkpoints(directory=tmp_path)
    checkpoints.save(state, round=1)
    engine = Engine(falling(), device="cpu")
    with pytest.raises(CheckpointError, match=r"^checkpoint '.*round-000000001.mlo'") as caught:
        engine.run(until=3, checkpoints=checkpoints, resume=True)
    assert "\n" not in str(caught.value)
    assert engine.round == 0
