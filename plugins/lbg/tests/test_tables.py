"""`mlo table NAME` on small made data in the official layouts."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from mlo import config, registry
from mlo.cli import app
from mlo.errors import ConfigError
from mlo.record import Record
from mlo_lbg.comparison_config import ComparisonConfig
from mlo_lbg.methods.fair_lbg import FairLbg
from mlo_lbg.methods.lbg import Lbg

NAMES = registry.tables()
SMALL = ("seeds=2", "device=cpu")


def write_adult(root: Path, rows: int) -> None:
    """Rows in which income depends on age, sex and chance."""
    chance = random.Random(0)
    lines = []
    for _ in range(rows):
        age, sex = chance.randint(20, 70), chance.choice(["Male", "Female"])
        rich = chance.random() < (0.6 if sex == "Male" else 0.4) * (1.4 if age > 45 else 0.6)
        lines.append(
            f"{age}, {chance.choice(['Private', 'State-gov'])}, 1, Bachelors, 13, Never-married, "
            f"Sales, Husband, White, {sex}, {chance.choice([0, 5000])}, 0, 40, Cuba, "
            f"{'>50K' if rich else '<=50K'}"
        )
    (root / "adult.data").write_text("\n".join([*lines, ""]))
    dotted = [f"{line}." for line in lines[: rows // 2]]
    (root / "adult.test").write_text("\n".join(["|1x3 Cross validator", *dotted, ""]))


def write_ham10000(root: Path, images: int) -> None:
    """One lesion an image, two of the seven kinds, sex at random."""
    chance = random.Random(0)
    (root / "HAM10000_images").mkdir()
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for n in range(images):
        kind = chance.choice(["nv", "mel"])
        grey = chance.randint(20, 90) + (100 if kind == "mel" else 0)
        Image.new("RGB", (16, 16), (grey, grey // 2, 40)).save(
            root / "HAM10000_images" / f"ISIC_{n:07}.jpg"
        )
        sex = chance.choice(["male", "female"])
        lines.append(f"HAM_{n:07},ISIC_{n:07},{kind},histo,50.0,{sex},back")
    (root / "HAM10000_metadata.csv").write_text("\n".join([*lines, ""]))


def settings_of(name: str, *overrides: str) -> ComparisonConfig:
    program = registry.load(f"table:{name}")
    loaded = config.load(program.config, defaults=program.defaults, overrides=overrides)
    assert isinstance(loaded, ComparisonConfig)
    return loaded


def short(name: str) -> list[str]:
    """Overrides that make every row of a table a matter of seconds."""
    found = []
    for row, value in settings_of(name).rows.items():
        if isinstance(value, Lbg | FairLbg):
            found += [f"rows.{row}.search.rounds=6", f"rows.{row}.search.batch_size=32"]
            found += [f"rows.{row}.retrain.epochs=1"]
        else:
            found += [f"rows.{row}.epochs=1"]
        if value.kind == "exponentiated_gradient":
            found += [f"rows.{row}.max_iter=2"]
        if value.kind == "jtt":
            found += [f"rows.{row}.first_epochs=1"]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_table_is_a_valid_configuration(name: str) -> None:
    settings = settings_of(name)
    assert settings.reference in settings.methods
    assert len({row.title for row in settings.rows.values()}) == len(settings.rows)
    assert any(isinstance(row, Lbg | FairLbg) for row in settings.rows.values())


@pytest.mark.parametrize("name", ["adult", "adult_fair"])
def test_a_table_of_a_data_set_with_people(tmp_path: Path, name: str) -> None:
    write_adult(tmp_path, 400)
    out, results = tmp_path / "run", tmp_path / "results"
    done = CliRunner().invoke(
        app,
        ["table", name, "--out", str(out), "--results", str(results)]
        + [part for text in (*short(name), *SMALL, f"data.root={tmp_path}")
           for part in ("--set", text)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads((results / f"{name}.json").read_text())
    page = (results / f"{name}.md").read_text()
    rows = settings_of(name).rows
    assert list(result["table"]) == [row.title for row in rows.values()]
    assert len(result["runs"]) == 2 * len(rows)
    for row in rows.values():
        assert row.title in page
    assert f"`mlo table {name} --set data.root=DIR`" in page
    # Where the data lay is nobody's business.
    assert str(tmp_path) not in page
    assert str(tmp_path) not in json.dumps(result)
    assert "one network, error" not in page
    assert "bagging, error" in page or "penalty 1, error" in page
    assert (out / "frontier.png").exists() == (name == "adult_fair")
    budget = result["table"]["one network"]["num_parameters"]["mean"]
    for title, row in result["table"].items():
        if title != "ExponentiatedGradient":
            assert row["num_parameters"]["mean"] == pytest.approx(budget, rel=0.35), title


@pytest.mark.slow  # Sixteen rows of residual networks.
def test_a_table_of_images(tmp_path: Path) -> None:
    write_ham10000(tmp_path, 120)
    program = registry.load("table:ham10000")
    settings = settings_of(
        "ham10000", *short("ham10000"), "seeds=1", "device=cpu", "data.size=16",
        f"methods=[{', '.join(settings_of('ham10000').rows)}]", f"data.root={tmp_path}",
    )  # fmt: skip
    program.run(settings, Record.create(tmp_path / "run", console=Console(quiet=True)))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["table"]) == {row.title for row in settings.rows.values()}


def test_rows_of_images_run(tmp_path: Path) -> None:
    write_ham10000(tmp_path, 80)
    program = registry.load("table:ham10000")
    settings = settings_of(
        "ham10000", *short("ham10000"), "seeds=1", "device=cpu", "data.size=16",
        "methods=[single, lbg_hard, lbg_soft]", f"data.root={tmp_path}",
    )  # fmt: skip
    program.run(settings, Record.create(tmp_path / "run", console=Console(quiet=True)))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["table"]) == ["one network", "LBG hard", "LBG soft"]
    assert result["table"]["one network"]["equalized_odds"]["mean"] is not None


def test_a_table_without_its_data_says_where_to_name_them() -> None:
    done = CliRunner().invoke(app, ["table", "adult", "--out", "nowhere"])
    assert done.exit_code == 2
    assert "data.root" in done.output
    assert not Path("nowhere").exists()


def test_tables_are_listed_and_a_misspelt_one_is_named() -> None:
    assert CliRunner().invoke(app, ["table"]).output.split() == NAMES
    done = CliRunner().invoke(app, ["table", "adlut"])
    assert done.exit_code == 2
    assert "adult" in done.output


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.attribute=gender", ["data.attribute", "gender", "sex"]),
        ("data.name=adlut", ["data", "adlut"]),
        ("rows.single.epoch=3", ["rows.single.epoch", "did you mean 'epochs'"]),
        ("rows.single.kind=singel", ["rows.single", "singel"]),
        ("rows.lbg_soft.search.remedy=normalized", ["remedy", "normalised"]),
        ("networks.hidden=[]", ["networks.hidden"]),
        ("methods=[singel]", ["methods", "singel", "single"]),
    ],
)
def test_impossible_values_are_one_line(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of("adult", override)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
