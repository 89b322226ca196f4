"""`docs/solvers.md`: its blocks print what it shows, and its tables are the code's."""

import json
import math
import re
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import mlo
from mlo.inverse import power

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "solvers.md"
RESULTS = ROOT / "benchmarks" / "results" / "accuracy.json"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?e[+-]\d+|\d+\.\d+")
COST = "| response | evaluations, autograd |"
ACCURACY = "| family | solved: ≤ 10 |"


def table(first):
    """Return the cells of the table whose header begins with `first`, and the header's."""
    lines = TEXT[TEXT.index(first) :].split("\n\n")[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines)
    return header, rows


def assert_alike(got, expected):
    """To the letter, but for decimals: processors round differently, and solves amplify that."""
    assert NUMBER.sub("#", got) == NUMBER.sub("#", expected)
    for one, other in zip(NUMBER.findall(got), NUMBER.findall(expected), strict=True):
        found, shown = float(one), float(other)
        assert max(found, shown) < 1e-8 or abs(math.log(found / shown)) < math.log(3), (one, other)


def test_every_block_prints_what_the_page_shows():
    session: dict[str, Any] = {}
    blocks = BLOCK.findall(TEXT)
    assert sum(bool(shown) for _, shown in blocks) >= 9
    for code, shown in blocks:
        printed = StringIO()
        with redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(code, PAGE.name, "exec"), session)
        assert_alike(printed.getvalue(), shown)


def declared(call, count, *, product):
    """Return the evaluations that the response in the first cell of the cost table declares."""
    names = {name: getattr(mlo, name) for name in mlo.__all__}
    ends = call.endswith("()")
    if product == "finite_difference" and not call.startswith(("finite", "value")):
        call = call[:-1] + ("" if ends else ", ") + "product='finite_difference')"
    return eval(f"mlo.{call}", {"mlo": mlo, "K": count, "s": count, **names}).evaluations


def costs(cell, count):
    """Return what a cell of the cost table says, n excluded."""
    at_most_one = re.search(r"\((\d+) if K = 1\)", cell)
    if at_most_one and count == 1:
        return int(at_most_one[1])
    formula = re.sub(r"\(.*\)", "", cell).strip()
    return eval(re.sub(r"(\d)([Ks])", r"\1*\2", formula), {"K": count, "s": count})


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("row", table(COST)[1], ids=lambda row: row[0])
def test_costs_are_those_that_responses_declare(row, count):
    call = row[0].strip("`")
    for cell, product in ((row[1], "autograd"), (row[2], "finite_difference")):
        if cell == "–":
            continue
        found = declared(call, count, product=product)
        if re.search(r"\bn\b|\dn\b", cell):
            assert found is None
        else:
            assert found == costs(cell, count), (call, product)


def test_every_response_has_a_cost_and_a_section():
    others = {"hypergradient", "implicit", "inverse", "testing", "weighted"}
    made = {name for name in mlo.__all__ if name[0].islower()} - others
    assert {row[0].strip("`").partition("(")[0] for row in table(COST)[1]} == made
    titles = " ".join(re.findall(r"^### (.*)$", TEXT, re.MULTILINE))
    assert all(re.search(rf"\b{name}\b", titles) for name in (*made, "implicit", "weighted"))


def test_a_neumann_series_declares_its_first_call_and_spends_less_later():
    row = next(r for r in table(COST)[1] if "auto" in r[0])
    later = re.search(r"K \+ (\d+) from the second", row[1])
    assert later is not None
    first = mlo.neumann(terms=5, rate="auto").evaluations
    assert first is not None
    assert 5 + int(later[1]) == first - power.FIRST + power.LATER


def test_the_accuracy_table_is_what_was_measured():
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    header, lines = table(ACCURACY)
    budgets = [int(re.search(r"\d+$", cell)[0]) for cell in header[1:]]
    half = len(budgets) // 2
    stages = ["solved"] * half + ["trained a little"] * half
    shown = {line[0] for line in lines}
    assert shown == {row["family"] for row in rows} - {"exact"}
    for family, *cells in lines:
        for cell, budget, stage in zip(cells, budgets, stages, strict=True):
            points = [
                (row["evaluations"], row["relative error"])
                for row in rows
                if (row["stage"], row["family"]) == (stage, family) and row["evaluations"] <= budget
            ]
            # Rounding is amplified from one machine to the next.
            assert float(cell) == pytest.approx(max(points)[1], rel=0.2, abs=1e-8)


def test_every_status_is_explained():
    _, rows = table("| status | meaning |")
    assert [row[0].strip("`") for row in rows] == [status.name for status in mlo.Status]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (PAGE.parent / target).exists(), target
