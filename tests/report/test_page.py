"""The page: what stands on it, and that it loads and runs nothing."""

import os
from io import StringIO

import pytest
from rich.console import Console

from mlo.errors import RunError
from mlo.report.command import report
from tests.report.runs import check, events, make, page, scalars

SHORT = [scalars(step, loss=step) for step in range(3)]
"""Enough where it is not about drawings."""


def sections(parsed):
    return parsed.within("h2")


def plots(parsed):
    return [svg["aria-label"] for svg in parsed.all("svg") if svg.get("class") == "plot"]


def test_a_whole_run_has_every_section_and_nothing_is_missing(tmp_path):
    parsed = page(make(tmp_path / "run"))
    check(parsed)
    assert sections(parsed) == [
        "Results",
        "Curves",
        "Groups",
        "Last values",
        "Histograms",
        "Images",
        "Tables",
        "Graph",
        "Configuration",
    ]
    assert "Missing or damaged" not in parsed.text


def test_the_head_says_what_was_run(tmp_path):
    parsed = page(make(tmp_path / "run", recorded=SHORT))
    assert parsed.within("h1") == ["demo"]
    assert "error 5.0 %" in parsed.text
    assert "2025-03-01 14:00 UTC" in parsed.within("dd")
    assert "1 min 15 s" in parsed.within("dd")
    assert "2.14.1" in parsed.within("dd")
    assert parsed.within("code") == ["mlo run demo --set 'steps=10 000'"]
    assert ("span", {"class": "state finished"}) in parsed.tags


@pytest.mark.parametrize("state", ["interrupted", "failed"])
def test_a_run_that_ended_badly_says_so(tmp_path, state):
    about = {"state": state, "error": "ValueError: no such thing"}
    parsed = page(make(tmp_path / "run", about=about, recorded=SHORT))
    assert ("span", {"class": f"state {state}"}) in parsed.tags
    assert "ValueError: no such thing" in parsed.within("dd")


def test_a_run_that_no_process_holds_has_died(tmp_path):
    parsed = page(make(tmp_path / "run", about={"state": "running"}, recorded=SHORT))
    assert ("span", {"class": "state died"}) in parsed.tags


def test_a_run_that_has_not_ended_misses_no_result(tmp_path):
    run = make(tmp_path / "run", about={"state": "interrupted"}, recorded=SHORT)
    (run / "result.json").unlink()
    assert "Missing or damaged" not in page(run).text


def test_metrics_of_one_prefix_share_a_panel_where_there_is_one_owner(tmp_path):
    recorded = [
        {**scalars(step), "values": {"loss/a": step, "loss/b": 2 * step, "alone": -step}}
        for step in range(5)
    ]
    found = plots(page(make(tmp_path / "run", recorded=recorded)))
    assert found == [
        "loss: a from 0 at step 0 to 4 at step 4; b from 0 at step 0 to 8 at step 4",
        "alone: from 0 at step 0 to −4 at step 4",
    ]


def test_owners_are_compared_metric_by_metric(tmp_path):
    recorded = [
        {**scalars(step, scope), "values": {"loss/a": step, "loss/b": 2 * step}}
        for scope in ("one", "two")
        for step in range(5)
    ]
    found = plots(page(make(tmp_path / "run", recorded=recorded)))
    assert [label.partition(":")[0] for label in found] == ["loss/a", "loss/b"]
    assert "one from 0 at step 0 to 4 at step 4; two from" in found[0]


def test_numbered_metrics_have_a_panel_for_each_seed(tmp_path):
    parsed = page(make(tmp_path / "run"))
    titles = parsed.within("h3")
    assert "load · seed 0" in titles
    assert "load · seed 1" in titles
    # Groups come in another order in every seed; the largest is the largest in any.
    assert "load, largest of 2" in parsed.text


def test_of_many_seeds_the_first_have_panels_and_it_is_said(tmp_path):
    recorded = [
        {**scalars(step, f"seed-{seed}"), "values": {"load/0": step, "load/1": 2 - step}}
        for seed in range(6)
        for step in range(3)
    ]
    parsed = page(make(tmp_path / "run", recorded=recorded))
    check(parsed)
    assert [title for title in parsed.within("h3") if title.startswith("load")] == [
        f"load · seed {seed}" for seed in range(4)
    ]
    assert "the first 4 of 6 seeds" in parsed.text


def test_free_lines_are_curves_by_their_texts_and_seeds(tmp_path):
    labels = plots(page(make(tmp_path / "run")))
    assert "error: free from 0.5 at round 1 to 0.25 at round 2" in labels


def test_what_is_constant_is_told_and_not_drawn(tmp_path):
    parsed = page(make(tmp_path / "run"))
    assert "Constant throughout" in parsed.within("caption")
    assert not [label for label in plots(parsed) if label.startswith("rate")]


def test_runs_that_differ_in_their_seed_are_seeds_of_one(tmp_path):
    runs = [
        make(
            tmp_path / f"run-{seed}",
            config=f"seed: {seed}\nsteps: 10\n",
            result={"error": 0.25 + seed / 4},
            recorded=[scalars(step, loss=step + seed) for step in range(3)],
        )
        for seed in (0, 1)
    ]
    parsed = page(*runs)
    check(parsed)
    assert "0.38 ± 0.12" in parsed.within("td")
    assert "all runs (n = 2)" in parsed.within("th")
    assert plots(parsed) == ["loss: from 0.5 at step 0 to 2.5 at step 2"]
    assert "Keys that differ" in parsed.within("caption")
    assert "Missing or damaged" not in parsed.text


def test_runs_of_the_same_seed_too_are_said_to_be(tmp_path):
    parsed = page(*(make(tmp_path / name, recorded=SHORT) for name in ("a", "b")))
    assert (
        "runs of the same configuration and seed are counted as seeds of one: a, b" in parsed.text
    )


def test_other_runs_are_told_apart_by_the_key_that_differs(tmp_path):
    runs = [
        make(tmp_path / name, config=f"seed: 0\nmodel:\n  steps: {steps}\n", recorded=SHORT)
        for name, steps in (("a", 10), ("b", 20))
    ]
    parsed = page(*runs)
    check(parsed)
    assert "model.steps" in parsed.text
    assert "steps=10 (n = 1)" not in parsed.text
    assert {"steps=10", "steps=20"} <= set(parsed.within("th"))


def test_directories_of_one_name_are_told_apart_by_where_they_are(tmp_path):
    parsed = page(*(make(tmp_path / name / "run", recorded=SHORT) for name in ("x", "y")))
    assert {"x/", "y/"} <= set(parsed.within("th"))


def test_the_page_lies_in_the_run_or_above_the_runs(tmp_path):
    console = Console(file=StringIO())
    one, two = (make(tmp_path / "p" / name, recorded=SHORT) for name in ("one", "q/two"))
    assert report([one], None, console) == one / "report.html"
    assert report([one, two], None, console) == tmp_path / "p" / "report.html"
    out = tmp_path / "new" / "page.html"
    assert report([one, one], out, console) == out
    assert "<h1>demo</h1>" in out.read_text()
    assert str(out) in console.file.getvalue().replace("\n", "")


@pytest.mark.parametrize("name", ["nothing", "empty", "file"])
def test_what_is_no_run_directory_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as caught:
        report([tmp_path / name], None, Console(file=StringIO()))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "empty" / "report.html").exists()


def test_no_run_at_all_is_refused():
    with pytest.raises(RunError, match="at least one"):
        report([], None, Console(file=StringIO()))


def test_a_page_that_cannot_be_written_is_an_error_in_one_line(tmp_path):
    run = make(tmp_path / "run", recorded=SHORT)
    with pytest.raises(RunError, match="cannot write"):
        report([run], run / "config.yaml" / "page.html", Console(file=StringIO()))


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics.jsonl", "result.json"])
def test_a_missing_file_is_one_line_of_the_page(tmp_path, name):
    run = make(tmp_path / "run", recorded=SHORT)
    (run / name).unlink()
    parsed = page(run)
    check(parsed)
    assert f"{name}: missing" in parsed.within("li")


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics.jsonl", "result.json"])
@pytest.mark.parametrize("kind", ["directory", "pipe", "link elsewhere", "not text"])
def test_a_file_that_is_none_is_one_line_of_the_page(tmp_path, name, kind):
    run = make(tmp_path / "run", recorded=SHORT)
    (tmp_path / "secret").write_text('{"secret": 1}')
    (run / name).unlink()
    if kind == "directory":
        (run / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(run / name)
    elif kind == "link elsewhere":
        (run / name).symlink_to(tmp_path / "secret")
    else:
        (run / name).write_bytes(b"\xff\xfe\x00")
    parsed = page(run)
    check(parsed)
    assert len([text for text in parsed.within("li") if text.startswith(name)]) == 1
    assert "secret" not in parsed.text


def test_damaged_lines_are_counted_and_the_others_are_shown(tmp_path):
    run = make(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "scalars"}\n[1]\nnot json\n{"kind": "table"}\nnot json\n{"torn": ')
    parsed = page(run)
    check(parsed)
    count = len(events())
    notes = [text for text in parsed.within("li") if text.startswith("metrics.jsonl")]
    assert notes == [
        f"metrics.jsonl: scalars without values (line {count + 1})",
        f"metrics.jsonl: expected a JSON object (line {count + 2})",
        f"metrics.jsonl: not JSON (2 lines, the first is line {count + 3})",
        f"metrics.jsonl: a table without columns and rows (line {count + 4})",
        f"metrics.jsonl: the last line is not complete (line {count + 6})",
    ]
    assert len(plots(parsed)) == len(plots(page(make(tmp_path / "whole"))))


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    run = make(tmp_path / "run", recorded=SHORT)
    (tmp_path / "precious").write_text("mine")
    (run / ".report.html.partial").symlink_to(tmp_path / "precious")
    check(page(run))
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_graph_that_is_none_is_shown_as_text(tmp_path):
    parsed = page(
        make(tmp_path / "run", about={"graph": "sequenceDiagram <b>x</b>"}, recorded=SHORT)
    )
    check(parsed)
    assert "sequenceDiagram <b>x</b>" in parsed.within("pre")


def test_the_same_runs_give_the_same_page(tmp_path):
    run = make(tmp_path / "run")
    assert page(run).source == page(run).source


def test_undefined_values_are_counted_below_the_panel(tmp_path):
    recorded = [
        scalars(0, loss=1),
        scalars(1, loss="nan"),
        scalars(2, loss=3),
        scalars(3, loss="inf"),
    ]
    parsed = page(make(tmp_path / "run", recorded=recorded))
    check(parsed)
    assert "2 infinite or undefined left out" in parsed.text


def test_a_page_of_many_metrics_says_how_many_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr("mlo.report.plots._PANELS", 2)
    recorded = [{**scalars(s), "values": {f"m{k}": s for k in range(5)}} for s in range(2)]
    parsed = page(make(tmp_path / "run", recorded=recorded))
    check(parsed)
    assert len(plots(parsed)) == 2
    assert "curves: the first 2 of 5 panels are drawn" in parsed.within("li")
    assert "m4" in parsed.within("th")


def test_numbers_of_a_result_without_a_schema_are_tables(tmp_path):
    result = {
        "headline": "fine",
        "seconds": 1.5,
        "note": None,
        "table": {
            "a": {"error": {"mean": 0.5, "standard_error": 0.1, "seeds": 3}},
            "b": {"time": 2},
        },
        "runs": [{"seed": 0, "error": 0.5}, {"seed": 1, "time": "nan"}],
        "deep": {"x": {"y": {"z": 1}}},
    }
    parsed = page(make(tmp_path / "run", result=result, recorded=SHORT))
    check(parsed)
    cells = parsed.within("td")
    assert "0.50 ± 0.10" in cells
    assert "mean ± standard error, n = 3" in parsed.text
    assert "undefined" in cells
    assert "x/" in parsed.within("th")
