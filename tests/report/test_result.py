"""Results of any form as tables and numbers."""

import pytest

from mlo.report.comparison import results_compared
from mlo.report.groups import Group
from mlo.report.result import grids_of, headline_of, numbers_of


class Run:
    def __init__(self, result):
        self.result = result


def texts(grid):
    return [[cell.text for cell in row] for row in grid.rows]


def test_scalars_are_one_table_and_the_headline_is_none():
    [grid] = grids_of({"headline": "good", "error": 0.25, "ok": True, "load": [0.5, 0.5]})
    assert texts(grid) == [["error", "0.25"], ["ok", "yes"], ["load", "0.5, 0.5"]]


def test_a_list_of_mappings_has_a_column_for_every_key():
    [grid] = grids_of({"runs": [{"a": 1}, {"b": 2}]})
    assert grid.columns == ("a", "b")
    assert texts(grid) == [["1", "–"], ["–", "2"]]


def test_what_is_nested_deeper_is_named_by_its_path():
    [grid] = grids_of({"x": {"y": {"z": {"w": 1}}}})
    assert texts(grid) == [["y/z/w", "1"]]


def test_long_tables_are_cut_and_it_is_said():
    [grid] = grids_of({"runs": [{"a": k} for k in range(500)]})
    assert len(grid.rows) == 200
    assert grid.note == "the first 200 of 500 rows"


@pytest.mark.parametrize("headline", [None, 3, ["x"], {"a": 1}])
def test_a_headline_is_a_text(headline):
    assert headline_of({"headline": headline}) == ""


def test_numbers_are_found_at_any_depth_and_texts_are_not():
    result = {"a": 1, "b": {"c": 2.5, "d": "text", "e": {"mean": 3, "se": 1, "n": 4}}, "f": True}
    found = dict(numbers_of(result))
    assert {name: (e.mean, e.error, e.n) for name, e in found.items()} == {
        "a": (1, None, 1),
        "b / c": (2.5, None, 1),
        "b / e": (3, 1, 4),
    }


def test_results_of_seeds_are_averaged_and_those_of_one_run_stand_as_they_are():
    groups = [
        Group(label="two", runs=(Run({"t": {"x": 1.0}}), Run({"t": {"x": 3.0}}))),
        Group(label="one", runs=(Run({"t": {"x": 5.0, "y": 1}}),)),
    ]
    grid = results_compared(groups)
    assert grid.columns == ("quantity", "two (n = 2)", "one")
    assert texts(grid) == [["x", "2.0 ± 1.0", "5"], ["y", "–", "1"]]


def test_one_run_is_not_compared():
    assert results_compared([Group(label="", runs=(Run({"x": 1}),))]) is None
