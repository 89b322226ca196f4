"""At normal size the examples do what they claim, with room for processors that round otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlo.cli import app

EXAMPLES = Path(__file__).parents[2] / "examples"
SEEDS = (0, 1, 2)

pytestmark = pytest.mark.slow


def results_of(name: str, directory: Path) -> list[dict[str, Any]]:
    """Run an example with every seed, as a user would, and return the results."""
    results = []
    for seed in SEEDS:
        out = directory / str(seed)
        path = str(EXAMPLES / f"{name}.py")
        outcome = CliRunner().invoke(app, ["run", path, "--set", f"seed={seed}", "--out", str(out)])
        assert outcome.exit_code == 0, outcome.output
        results.append(json.loads((out / "result.json").read_text()))
    return results


def test_a_decay_for_every_weight_beats_one_for_all(tmp_path: Path) -> None:
    for result in results_of("weight_decay", tmp_path):
        tuned, *others = (
            result["test_error"][row]
            for row in (
                "a decay for every weight",
                "next to no decay",
                "one decay, chosen on the validation set",
                "one decay, trained on both sets",
            )
        )
        assert tuned < min(others)
        assert result["mean_decay"]["noise"] > 2 * result["mean_decay"]["scan"]


def test_reweighting_finds_the_wrong_labels_and_beats_what_needs_no_second_level(
    tmp_path: Path,
) -> None:
    for result in results_of("reweighting", tmp_path):
        reweighted = result["noisy labels, reweighted"]
        plain = "noisy labels", "noisy labels, a fifth of the updates", "50 correct labels"
        assert reweighted["test_error"] < min(result[row]["test_error"] for row in plain)
        assert reweighted["weight_wrong"] < 0.2 * reweighted["weight_correct"]
        # The rows of plain training are plain: without its updates the weighting stays even.
        assert result["noisy labels"]["weight_wrong"] == pytest.approx(0.5)
        assert result["noisy labels"]["weight_correct"] == pytest.approx(0.5)


def test_the_architecture_found_is_about_as_good_as_the_best_single_one(tmp_path: Path) -> None:
    for result in results_of("teacher_student", tmp_path):
        errors = {name: row["test_error"] for name, row in result.items()}
        assert errors["found"] < errors["even"] - 0.01
        assert errors["found"] < min(errors["relu"], errors["tanh"]) + 0.03
        assert max(errors, key=errors.__getitem__) == "sine"
        assert result["found"]["shares"]["sine"] < 0.05
