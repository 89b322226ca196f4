"""What the lines of a file add up to."""

import pytest

from mlo.report.collected import Collected, collect
from mlo.report.faults import Faults
from tests.report.runs import events, lines, scalars


def collected(*values):
    found = Collected(Faults())
    for number, each in enumerate(values, 1):
        found.add(number, each)
    found.finish()
    return found


def points(curve):
    steps, values = curve.points.points()
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def test_every_kind_of_event_is_found(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(lines(events()))
    faults = Faults()
    found = collect(tmp_path, faults)
    assert faults.sentences() == []
    assert set(found.histograms) == {("method/seed-0", "C"), ("method/seed-1", "C")}
    assert set(found.images) == {("", "groups")}
    assert set(found.tables) == {("", "comparison")}
    assert found.records["done"].count == 2
    assert ("free/seed-1", "error") in found.curves


def test_a_long_file_is_thinned_and_keeps_its_peak(tmp_path):
    recorded = [scalars(step, loss=9.0 if step == 7777 else 1.0) for step in range(10_000)]
    (tmp_path / "metrics.jsonl").write_text(lines(recorded))
    found = points(collect(tmp_path, Faults()).curves["", "loss"])
    assert len(found) <= 2000
    assert (7777.0, 9.0) in found


def test_nested_numbers_of_a_free_line_are_named_by_their_path():
    found = collected({"round": 3, "epoch": 1, "losses": {"a": 1, "b": [2, 4]}, "note": None})
    assert {name: points(curve) for (_, name), curve in found.curves.items()} == {
        "losses/a": [(3.0, 1.0)],
        "losses/b/0": [(3.0, 2.0)],
        "losses/b/1": [(3.0, 4.0)],
    }
    assert {curve.axis for curve in found.curves.values()} == {"round"}


def test_texts_of_a_free_line_and_its_seed_are_its_scope():
    line = {"kind": "epoch", "seed": 4, "round": 1, "method": "lbg", "data": "digits", "x": 1}
    assert list(collected(line).curves) == [("lbg/digits/seed-4", "x")]


def test_kinds_that_record_one_name_stand_apart():
    found = collected({"kind": "train", "step": 1, "x": 1}, {"kind": "test", "step": 1, "x": 2})
    assert set(found.curves) == {("train", "x"), ("test", "x")}


def test_numbers_that_are_not_finite_are_counted_apart():
    values = [1.0, "nan", "inf", 1e200, 2.0]
    found = collected(*(scalars(step, x=value) for step, value in enumerate(values)))
    assert points(found.curves["", "x"]) == [(0.0, 1.0), (4.0, 2.0)]
    assert found.curves["", "x"].undefined == 3


def test_without_steps_values_are_counted():
    found = collected(*(scalars(None, x=value) for value in (5.0, 6.0)))
    assert points(found.curves["", "x"]) == [(0.0, 5.0), (1.0, 6.0)]
    assert found.curves["", "x"].axis == "record"


def test_the_newest_table_of_a_name_is_kept():
    rows = [
        {"kind": "table", "step": s, "name": "t", "columns": ["a"], "rows": [[s]]} for s in (1, 2)
    ]
    assert collected(*rows).tables["", "t"].rows == ((2,),)


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "scalars", "values": {"x": "two"}},
        {"kind": "histogram", "edges": [0, 1], "counts": [1, 2]},
        {"kind": "histogram", "edges": [1, 0], "counts": [1]},
        {"kind": "histogram", "edges": [0, 1], "counts": [0]},
        {"kind": "histogram", "edges": [0, "inf"], "counts": [1]},
        {"kind": "image", "file": 3},
        {"kind": "table", "columns": ["a"], "rows": [[1, 2]]},
    ],
)
def test_an_event_that_makes_no_sense_is_a_fault_and_nothing_else(bad):
    found = collected(bad)
    [sentence] = found.faults.sentences()
    assert sentence.endswith("(line 1)")
    assert [*found.histograms, *found.images, *found.tables] == []


def test_the_number_of_curves_is_bounded():
    found = collected({"kind": "scalars", "values": {f"m{k}": 1.0 for k in range(5000)}})
    assert len(found.curves) == 4000
    assert "more metrics than can be shown" in found.faults.sentences()[0]
