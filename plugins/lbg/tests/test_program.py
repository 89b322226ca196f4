"""`mlo run lbg`, from its configuration to its files."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlo import config
from mlo.errors import ConfigError
from mlo.record import Record
from mlo_lbg.comparison_config import ComparisonConfig
from mlo_lbg.methods.lbg import Lbg
from mlo_lbg.program import program


def resolved(*overrides: str) -> ComparisonConfig:
    return config.load(program.config, defaults=program.defaults, overrides=overrides)


def run(directory: Path, *overrides: str) -> dict[str, Any]:
    """Run the program and return its result."""
    settings = resolved(*overrides)
    program.run(settings, Record.create(directory, console=Console(quiet=True)))
    result: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return result


ROWS = resolved().rows

SHORT = (
    "seeds=2",
    *(f"rows.{name}.epochs=2" for name in ROWS if not name.startswith("lbg")),
    *(f"rows.{name}.search.rounds=12" for name in ROWS if name.startswith("lbg")),
    *(f"rows.{name}.retrain.epochs=2" for name in ROWS if name.startswith("lbg")),
)


EVERY_RUN = {
    *("run.json", "run.lock", "metrics.jsonl", "result.json", "table.md"),
    *("checkpoints", "done", "tensorboard"),
}


def test_a_short_run_compares_every_method_and_writes_every_file(tmp_path: Path) -> None:
    result = run(tmp_path, *SHORT)
    pictures = {"curves.png", "load.png", "groups.png"}
    assert {path.name for path in tmp_path.iterdir()} == EVERY_RUN | pictures | {"images"}
    assert {path.name for path in (tmp_path / "images").iterdir()} == pictures
    assert not list((tmp_path / "checkpoints").rglob("*.mlo"))
    assert list(result["table"]) == [entry.title for entry in ROWS.values()]
    assert len(result["runs"]) == 2 * len(ROWS)
    budget = result["table"]["one network"]["num_parameters"]["mean"]
    for title, row in result["table"].items():
        assert row["num_parameters"]["mean"] == pytest.approx(budget, rel=0.1), title
        assert 0 <= row["error"]["mean"] <= 1
    table = (tmp_path / "table.md").read_text()
    for entry in ROWS.values():
        assert entry.title in table
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    runs = [line for line in lines if line["kind"] == "run"]
    epochs = [line for line in lines if line["kind"] == "scalars" and "flip_rate" in line["values"]]
    assert len(runs) == 2 * len(ROWS)
    assert {line["scope"] for line in epochs} == {
        f"{name}/search/seed-{seed}" for name in ROWS if name.startswith("lbg") for seed in range(2)
    }
    assert {
        *("load/group 0", "load/group 1", "entropy/row of C", "flip_rate", "agreement"),
        *("confidence", "nmi/label", "nmi/attribute"),
    } <= set(epochs[0]["values"])
    (comparison,) = [line for line in lines if line["kind"] == "table"]
    assert [row[0] for row in comparison["rows"]] == [entry.title for entry in ROWS.values()]
    assert "of 12 methods" in result["headline"]


def test_a_run_without_groups_draws_nothing_and_does_not_fail(tmp_path: Path) -> None:
    run(tmp_path, "seeds=1", "methods=[single]", "rows.single.epochs=1")
    assert {path.name for path in tmp_path.iterdir()} == EVERY_RUN


@pytest.mark.parametrize(
    "variant", ["turned_exposed", pytest.param("turned", marks=pytest.mark.slow)]
)
def test_every_variant_runs(tmp_path: Path, variant: str) -> None:
    run(tmp_path, *SHORT, "seeds=1", f"data.variant={variant}")


@pytest.mark.parametrize("groups", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_other_numbers_of_groups_run(tmp_path: Path, groups: int) -> None:
    """With one group LBG is plain training; the attribute has two values whatever K is."""
    run(tmp_path, *SHORT, "seeds=1", f"num_groups={groups}")


def test_a_collapse_is_named_with_what_to_change(tmp_path: Path) -> None:
    """A GAM that hardly moves for want of rounds sends nearly everything to a few of 40 groups."""
    result = run(
        tmp_path,
        "seeds=1",
        "methods=[lbg_soft]",
        "num_groups=40",
        "rows.lbg_soft.search.rounds=1",
        "rows.lbg_soft.retrain.epochs=1",
    )
    (only,) = result["runs"]
    assert "collapse" in only["collapse"]
    assert only["collapse"] in (tmp_path / "table.md").read_text()


def test_the_graph_has_three_levels() -> None:
    graph = program.graph(resolved())
    assert dict(graph.levels) == {"gam": 0, "experts": 1, "assignments": 2}
    assert graph.sweeps["assignments"].order == ("experts", "gam")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.variant=turnd", ["data.variant", "turnd", "did you mean 'turned'"]),
        ("rows.lbg_soft.serach.rounds=3", ["serach", "did you mean 'search'"]),
        ("num_groups=0", ["num_groups", "0", "1"]),
        ("methods=[singel]", ["methods", "singel", "single"]),
        ("methods=[]", ["methods"]),
        ("rows.lbg_soft.search.gam_rate=-1", ["gam_rate", "-1"]),
        ("seeds=1.5", ["seeds", "1.5"]),
    ],
)
def test_impossible_values_are_one_line(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(override)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_numbers_with_an_exponent_are_numbers() -> None:
    row = resolved("rows.lbg_soft.search.gam_learning_rate=1e-3").rows["lbg_soft"]
    assert isinstance(row, Lbg)
    assert row.search.gam_learning_rate == 1e-3


@pytest.mark.slow  # A whole comparison over five seeds.
def test_soft_routing_finds_the_orientation_and_pays_for_itself(tmp_path: Path) -> None:
    """Done when 7, with the packaged settings: the groups, and the errors in the right order."""
    result = run(tmp_path, "methods=[single, lbg_soft, lbg_random]")
    found = [r["nmi_attribute"] for r in result["runs"] if r["method"] == "lbg_soft"]
    assert sum(value >= 0.8 for value in found) >= 4
    error = {title: row["error"]["mean"] for title, row in result["table"].items()}
    learned = error[ROWS["lbg_soft"].title]
    assert learned < error[ROWS["single"].title]
    assert learned < 0.6 * error[ROWS["lbg_random"].title]
