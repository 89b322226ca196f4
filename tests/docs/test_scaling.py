"""`docs/scaling.md`: its block prints what it shows; its tables are the code's and the results'."""

import json
import math
import re
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from mlo.bench import communication_scaling
from mlo.bench.cases import CASES
from mlo.bench.communication import ANSWERS
from mlo.bench.communication_cost import Machine
from mlo.bench.communication_memory import LAYOUTS
from mlo.bench.communication_plot import AS_ASSUMED
from mlo.parallel.overlapped import BUCKET_BYTES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scaling.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANSWER_TABLE = "| response | reductions within |"
CHANGES = "| changed | ResNet-18 |"
EFFICIENCY = "| model | upper step |"
FAILURES = "| state | R |"
BIAS = "| response | each alone, R = 2 |"
MEMORY = "| layout | bytes a row |"
EXCHANGES = "| way | R |"


def results(name):
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def only(rows, **wanted):
    (row,) = (row for row in rows if all(row.get(k) == v for k, v in wanted.items()))
    return row


def table(first):
    """Return the cells of the rows of the table whose header begins with `first`."""
    assert TEXT.count(first) == 1, first
    lines = TEXT[TEXT.index(first) :].split("\n\n")[0].splitlines()
    return [
        [cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in lines[2:]
    ]


def number(cell):
    return float(cell.replace(",", "").rstrip("%"))


def assert_shown(cell, value, *, digits=0):
    """The cell is the value, rounded to its digits."""
    assert math.isclose(number(cell), value, abs_tol=0.5001 * 10**-digits), (cell, value)


def assert_close(cell, value, *, relative=0.06):
    """The cell is the value to its one or two figures."""
    assert math.isclose(number(cell), value, rel_tol=relative), (cell, value)


def test_every_block_prints_what_the_page_shows():
    blocks = BLOCK.findall(TEXT)
    assert len(blocks) == TEXT.count("```python") == 1
    session: dict[str, Any] = {}
    for code, shown in blocks:
        printed = StringIO()
        with redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(code, PAGE.name, "exec"), session)
        assert printed.getvalue() == shown


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_reductions_are_those_of_the_code(steps):
    rows = table(ANSWER_TABLE)
    assert [row[0] for row in rows] == list(ANSWERS)
    for call, cell, _ in rows:
        single = re.search(r"\((\d+) if K = 1\)", cell)
        formula = re.sub(r"\(.*\)", "", cell).strip()
        expected = eval(re.sub(r"(\d)K", r"\1*K", formula), {"K": steps, "n": 30})
        if single and steps == 1:
            expected = int(single[1])
        assert ANSWERS[call].reductions(steps, 30) == expected, call


def test_megabytes_are_those_of_the_results():
    rows = results("communication")
    for call, _, cell in table(ANSWER_TABLE):
        found = only(rows, response=call)["copies (MB)"]
        if found is None:
            assert cell == "–"
        else:
            assert_shown(cell, found)
    plain = only(rows, response="finite_difference()")
    (shown,) = re.findall(r"one plain update of it puts in (\d+)\.", TEXT)
    assert_shown(shown, plain["gradients (MB)"] / 5)


def test_formulas_were_counted_and_measured():
    for row in results("communication"):
        assert row["formula (bytes)"] == row["two ranks (bytes)"], row["response"]
        if "counted" in row:
            assert row["counted"] == row["reductions"]


def test_bytes_sent_are_those_of_the_results():
    rows = results("communication")
    calls = (
        "finite_difference()",
        "value_function(steps=K)",
        'cg(steps=K, product="finite_difference")',
    )
    found = re.search(
        r"sends (\d+) bytes per byte of \|θ\|\s+for `(.*?)`, (\d+) for `(.*?)` and (\d+) for\s+"
        r"`(.*?)`; replicated it sends (\d+), (\d+) and (\d+)",
        TEXT,
    )
    assert found is not None
    assert (found[2], found[4], found[6]) == calls
    for call, sharded, replicated in zip(calls, (1, 3, 5), (7, 8, 9), strict=True):
        row = only(rows, response=call)
        assert row["sent, sharded"] == number(found[sharded])
        assert row["sent, replicated"] == number(found[replicated])


def test_errors_of_one_reduction_are_those_of_the_results():
    rows = results("communication_bias")
    lines = table(BIAS)
    assert {line[0] for line in lines} == {row["response"] for row in rows}
    places = [(way, n) for way in dict.fromkeys(r["way"] for r in rows) for n in (2, 8, 64)]
    for response, *cells in lines:
        for cell, (way, ranks) in zip(cells, places, strict=True):
            found = only(rows, response=response, way=way, ranks=ranks)["relative error"]
            # What is rounding differs from machine to machine.
            assert max(found, number(cell)) < 1e-13 or math.isclose(
                number(cell), found, rel_tol=0.07
            ), (response, way, ranks)


def test_percents_in_the_text_are_those_of_the_errors():
    rows = [r for r in results("communication_bias") if r["way"] == "each rank alone"]
    clear = [r for r in rows if "nothing" not in r["response"]]
    found = [
        (min(errors), max(errors))
        for n in (8, 64)
        for errors in [[100 * r["relative error"] for r in clear if r["ranks"] == n]]
    ]
    shown = re.search(r"off by (\d+) to (\d+) percent, with 8 rows by (\d+) to\n(\d+);", TEXT)
    assert shown is not None
    for cell, value in zip(shown.groups(), [x for pair in found for x in pair], strict=True):
        assert_shown(cell, value)


def test_efficiencies_are_those_of_the_results():
    rows = [row for row in results("communication_scaling") if row["change"] == AS_ASSUMED]
    for model, response, rate, *cells in table(EFFICIENCY):
        alone = only(rows, model=model, response=response, ranks=1)
        assert_close(rate, alone["rounds/s"], relative=0.01)
        for cell, ranks in zip(cells, (8, 64, 512, 4096), strict=True):
            found = only(rows, model=model, response=response, ranks=ranks)
            assert_shown(cell, 100 * found["efficiency"])
    (share, more, most) = re.search(
        r"hides (\d+)% of a plain update's reduction for ResNet-18[^,]*,[^,]*, (\d+)% for Swin-T "
        r"and (\d+)%",
        TEXT.replace("\n", " "),
    ).groups()
    for cell, model in ((share, "ResNet-18"), (more, "Swin-T"), (most, "1B")):
        found = only(rows, model=model, response="plain training", ranks=512)
        assert_shown(cell, 100 * found["hidden"])


def test_what_exactness_costs_is_that_of_the_results():
    rows = [row for row in results("communication_scaling") if row["change"] == AS_ASSUMED]

    def points(model, variant):
        found = {
            name: only(rows, model=model, ranks=4096, response=f"cg(steps=10){name}")["efficiency"]
            for name in ("", variant)
        }
        return 100 * (found[variant] - found[""])

    (cost,) = re.findall(r"costs `cg` (\d+) points at 4,096", TEXT)
    for model in ("ResNet-18", "Swin-T", "1B"):
        assert_shown(cost, points(model, ", one reduction (inexact)"))
    back = re.search(r"(\d+) \(ResNet-18\) to (\d+) \(1B\) of the 16", TEXT)
    assert back is not None
    for cell, model in zip(back.groups(), ("ResNet-18", "1B"), strict=True):
        assert_shown(cell, points(model, ", overlapped (not built)"))


def test_changes_are_those_of_the_results():
    rows = results("communication_scaling")
    lines = table(CHANGES)
    named = {"buckets of 100 MiB", "1 lower update a round"}
    assert {line[0] for line in lines} | named == {row["change"] for row in rows}
    (most,) = re.findall(r"change it by (\d) points at most", TEXT)
    for model in ("ResNet-18", "Swin-T", "1B"):
        place = {"model": model, "response": "cg(steps=10)", "ranks": 512}
        before = only(rows, change=AS_ASSUMED, **place)["efficiency"]
        for change in named:
            after = only(rows, change=change, **place)["efficiency"]
            assert 100 * abs(after - before) <= number(most) + 0.5
    for change, *cells in lines:
        for cell, model in zip(cells, ("ResNet-18", "Swin-T", "1B"), strict=True):
            if cell == "–":
                assert not [r for r in rows if (r["model"], r["change"]) == (model, change)]
                continue
            found = only(
                rows,
                model=model,
                change=change,
                response=communication_scaling.SENSITIVITY_RESPONSE,
                ranks=communication_scaling.SENSITIVITY_RANKS,
            )
            assert_shown(cell, 100 * found["efficiency"])


def test_assumptions_are_those_of_the_code():
    rows = {row[0]: row[1] for row in table("| assumed | value |")}
    machine = Machine()
    assert rows["computing"] == f"{machine.flops / 1e12:.0f} TFLOP/s a rank"
    assert rows["within a node of 8"] == (
        f"{machine.inside.bandwidth / 1e9:.0f} GB/s, {machine.inside.latency * 1e6:g} µs a step"
    )
    assert rows["between nodes"] == (
        f"{machine.between.bandwidth / 1e9:.0f} GB/s a rank, {machine.between.latency * 1e6:g} µs "
        f"a step (tree {machine.tree_latency * 1e6:g})"
    )
    assert machine.node == 8
    assert rows["buckets"] == f"{BUCKET_BYTES / 2**20:.0f} MiB, float32"


def test_sizes_of_tables_are_those_of_the_results():
    rows = results("communication_memory")
    lines = table(MEMORY)
    shown = [line[0] for line in lines]
    assert shown == [layout.name for layout in LAYOUTS if layout.name in shown]
    assert len(shown) >= 5
    for layout, each, *cells in lines:
        for (size, cards), count in zip((cells[:2], cells[2:]), (10**9, 10**10), strict=True):
            found = only([r for r in rows if r["rows"] == count], layout=layout)
            assert_shown(each, found["bytes a row"])
            assert_shown(size, found["GB"])
            assert number(cards) == found["GPUs of 80 GB"]
            assert found["nodes of 2 TB"] == 1


def test_exchanges_are_those_of_the_results():
    rows = results("communication_rows")
    for way, ranks, received, messages, fullest, milliseconds in table(EXCHANGES):
        found = only(rows, way=way, ranks=number(ranks))
        assert_shown(received, found["received (kB)"])
        assert_shown(messages, found["messages"])
        assert_close(milliseconds, found["network (ms)"])
        if fullest != "–":
            assert_close(fullest, found["fullest / mean"], relative=0.01)
    (expected,) = re.findall(r"\((\d\.\d\d) expected at 4,096 ranks\)", TEXT)
    at_random = only(rows, way="rows spread, batch at random", ranks=4096)
    assert_shown(expected, at_random["expected at random"], digits=2)


def test_late_updates_and_saves_are_those_of_the_results():
    rows = results("communication_staleness")
    shown = re.search(
        r"([\d.]+)% of lookups if batches are drawn anew, ([\d.]+)% in\s+shuffled epochs", TEXT
    )
    assert shown is not None
    for cell, batches in zip(shown.groups(), ("drawn anew", "shuffled epochs"), strict=True):
        row = only(rows, batches=batches, **{"delay (rounds)": 10})
        assert_close(cell, 100 * row["stale, 1e9 rows"], relative=0.01)
        assert row["stale, simulated"] == pytest.approx(row["stale, formula"], rel=0.05)
    (share,) = re.findall(r"every 100 rounds: (\d+)% of the table", TEXT)
    for batches in ("drawn anew", "shuffled epochs"):
        row = only(rows, batches=batches, **{"rounds between saves": 100})
        assert_shown(share, 100 * row["changed, 1e9 rows"])


def test_failures_are_those_of_the_results():
    rows = results("communication_failures")
    for state, ranks, hours, save, interval, lost, seldom in table(FAILURES):
        found = only(rows, state=state, ranks=number(ranks))
        assert_shown(hours, found["hours between failures"])
        assert_close(save, found["seconds of a save"], relative=0.02)
        assert_shown(interval, found["Daly (minutes)"], digits=1)
        assert_shown(lost, 100 * found["lost"], digits=1)
        assert_shown(seldom, 100 * found["lost, saving every 6 hours"], digits=1)
        assert found["lost, simulated"] == pytest.approx(found["lost"], rel=0.02)


def test_cases_that_are_named_exist():
    named = set(re.findall(r"mlo bench (communication\w*)", TEXT))
    known = {case.name for case in CASES}
    assert named <= known
    assert {name for name in known if name.startswith("communication")} == named


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (PAGE.parent / target).exists(), target
