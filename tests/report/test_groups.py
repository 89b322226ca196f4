"""Which runs are seeds of one, and what tells others apart."""

from pathlib import Path

import pytest

from mlo.report.collected import Collected
from mlo.report.faults import Faults
from mlo.report.groups import differences, groups_of, repeated
from mlo.report.run import Run
from mlo.run_directory import State


def run(name, settings, program="demo"):
    return Run(
        directory=Path(name),
        name=name,
        state=State.FINISHED,
        about={"program": program},
        configuration=None,
        settings=settings,
        result={},
        collected=Collected(Faults()),
        faults=Faults(),
    )


def names(groups):
    return [[member.name for member in group.runs] for group in groups]


def test_only_the_seed_may_differ():
    runs = [
        run("a", {"seed": 0, "model.seed": 1, "seeds": 2, "rate": 0.1}),
        run("b", {"seed": 5, "model.seed": 2, "seeds": 2, "rate": 0.1}),
        run("c", {"seed": 0, "model.seed": 1, "seeds": 3, "rate": 0.1}),
        run("d", {"seed": 0, "model.seed": 1, "seeds": 2, "rate": 0.1}, program="other"),
    ]
    assert names(groups_of(runs)) == [["a", "b"], ["c"], ["d"]]


def test_a_run_without_configuration_is_alone():
    assert names(groups_of([run("a", None), run("b", None)])) == [["a"], ["b"]]


def test_one_and_true_are_not_the_same_value():
    assert len(groups_of([run("a", {"x": 1}), run("b", {"x": True})])) == 2


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ([{"seed": 0, "a.rate": 1}, {"seed": 1, "a.rate": 2}], ["rate=1", "rate=2"]),
        ([{"a": 1, "b": 2}, {"a": 3, "b": 4}], ["a=1, b=2", "a=3, b=4"]),
        ([{"a": 1, "b": 2, "c": 3}, {"a": 3, "b": 4, "c": 5}], ["run-0", "run-1"]),
        ([{"a": "x" * 50}, {"a": "y" * 50}], ["run-0", "run-1"]),
        ([{"a": 1}], [""]),
    ],
)
def test_groups_are_called_by_what_differs_where_that_is_short(settings, labels):
    runs = [run(f"run-{k}", each) for k, each in enumerate(settings)]
    assert [group.label for group in groups_of(runs)] == labels


def test_only_keys_that_differ_are_listed_with_a_dash_where_there_is_none():
    runs = [run("a", {"x": 1, "y": [1, 2]}), run("b", {"x": 1, "y": [1, 3], "z": "t"})]
    assert [(d.key, d.values) for d in differences(runs)] == [
        ("y", ("1, 2", "1, 3")),
        ("z", ("–", "t")),
    ]


def test_runs_of_the_very_same_configuration_are_repeated():
    [once] = groups_of([run("a", {"seed": 0}), run("b", {"seed": 1})])
    [twice] = groups_of([run("a", {"seed": 0}), run("b", {"seed": 0})])
    assert not repeated(once)
    assert repeated(twice)
