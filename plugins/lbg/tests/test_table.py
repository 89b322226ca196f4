import json
import math
import statistics
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mlo_lbg.table import (
    Column,
    TableError,
    as_dict,
    as_markdown,
    as_rich,
    compare,
    statistic,
)

COLUMNS = (
    Column(key="error", title="error %", decimals=2, scale=100),
    Column(key="nmi", title="NMI"),
    Column(key="size", title="parameters", decimals=0),
)
RESULTS = {
    "plain": [
        {"error": 0.05, "nmi": None, "size": 1430.0},
        {"error": 0.07, "nmi": None, "size": 1430.0},
    ],
    "grouped": [
        {"error": 0.04, "nmi": 0.9, "size": 1430.0},
        {"error": 0.04, "nmi": math.nan, "size": 1430.0},
    ],
}


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_statistics_are_mean_and_standard_error(values: list[float]) -> None:
    found = statistic(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    expected = statistics.stdev(values) / math.sqrt(len(values))
    assert found.standard_error == pytest.approx(expected, abs=1e-6)
    assert found.defined == found.seeds == len(values)


def test_one_seed_has_no_standard_error_and_nan_is_counted_out() -> None:
    assert math.isnan(statistic([3.0]).standard_error)
    some = statistic([1.0, math.nan, 3.0])
    assert (some.mean, some.standard_error, some.defined, some.seeds) == (2.0, 1.0, 2, 3)
    assert math.isnan(statistic([math.nan]).mean)


def test_markdown_is_aligned_and_says_what_is_missing() -> None:
    assert as_markdown(compare(RESULTS, COLUMNS)).splitlines() == [
        "| method  |     error % |         NMI | parameters |",
        "| ------- | ----------: | ----------: | ---------: |",
        "| plain   | 6.00 ± 1.00 |           – |      1,430 |",
        "| grouped |        4.00 | 0.900 (1/2) |      1,430 |",
    ]


def test_nowhere_defined_is_said_in_words() -> None:
    table = compare({"a": [{"nmi": math.nan}]}, (Column(key="nmi", title="NMI"),))
    assert "undefined" in as_markdown(table)


def test_rich_shows_the_same_cells() -> None:
    console = Console(file=StringIO(), width=120)
    console.print(as_rich(compare(RESULTS, COLUMNS), title="digits"))
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    for cell in ("digits", "error", "6.00", "±1.00", "0.900 (1/2)", "1,430", "–"):
        assert cell in text


def test_the_dictionary_is_json_without_nan() -> None:
    table = as_dict(compare(RESULTS, COLUMNS))
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["plain"]["nmi"] is None
    assert table["grouped"]["nmi"] == {
        "mean": 0.9,
        "standard_error": None,
        "defined": 1,
        "seeds": 2,
    }
    error = table["plain"]["error"]
    assert error is not None
    assert error["mean"] == pytest.approx(0.06)


def test_results_that_do_not_fit_are_named() -> None:
    with pytest.raises(TableError, match="plain: expected the results of at least one seed"):
        compare({"plain": []}, COLUMNS)
    with pytest.raises(TableError, match=r"expected a value for 'error'.*did you mean 'eror'"):
        compare({"plain": [{"eror": 1.0}]}, COLUMNS)
    with pytest.raises(TableError, match="expected 'nmi' for every seed or for none"):
        compare({"plain": [{"nmi": 1.0}, {"nmi": None}]}, (COLUMNS[1],))
