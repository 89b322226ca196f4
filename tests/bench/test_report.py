"""Tables and JSON of a result."""

import json
from io import StringIO

import pytest
import torch
from rich.console import Console

from mlo import __version__
from mlo.bench.case import Case, Result, Settings
from mlo.bench.ratio import ratio
from mlo.bench.report import document, table

RESULT = Result(
    title="a table",
    rows=[
        {"method": "cg", "ms": 1.23456, "mlo": ratio([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])},
        {"method": "fd", "mlo": None, "peer": "not installed", "odd": float("nan")},
    ],
    notes=("a note",),
)
CASE = Case(name="some", summary="measures something", run=lambda settings: RESULT)


def printed(result):
    stream = StringIO()
    Console(width=120, file=stream).print(table(result))
    return stream.getvalue()


def test_a_ratio_prints_with_its_quartiles_and_what_is_missing_as_a_dash():
    text = printed(RESULT)
    assert "2 [1.5, 3]" in text
    assert "1.235" in text
    assert text.count("–") == 4
    assert "not installed" in text


def test_the_document_says_everything_and_is_plain_json():
    settings = Settings(quick=True, seed=7, threads=1)
    found = json.loads(json.dumps(document(CASE, settings, RESULT), allow_nan=False))
    assert list(found) == [
        "schema",
        "case",
        "summary",
        "title",
        "date",
        "commit",
        "machine",
        "versions",
        "settings",
        "rows",
        "ratios",
        "notes",
    ]
    assert found["settings"] == {"quick": True, "seed": 7, "threads": 1, "device": "cpu"}
    assert found["rows"][0] == {"method": "cg", "ms": 1.23456, "mlo": 2.0}
    assert found["rows"][1]["odd"] == "nan"
    assert found["ratios"] == [
        {"row": 0, "column": "mlo", "median": 2.0, "lower": 1.5, "upper": 3.0, "pairs": 3}
    ]
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["mlo-framework"] == __version__
    assert set(found["versions"]) >= {"python", "betty-ml", "torchopt"}
    assert found["machine"]["cpu"]
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["commit"] is None or len(found["commit"]) == 40


@pytest.mark.parametrize("value", [1, "text", None, 0.5])
def test_other_cells_stay_as_they_are(value):
    result = Result(title="t", rows=[{"cell": value}])
    found = document(CASE, Settings(), result)
    assert found["rows"] == [{"cell": value}]
    assert found["ratios"] == []
