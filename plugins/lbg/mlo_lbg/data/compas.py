"""COMPAS: is a defendant of Broward County charged again within two years?"""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from torchvision.datasets.utils import download_url

from mlo.errors import nearest
from mlo_lbg.data.collection import Collection
from mlo_lbg.data.dataset import DataError
from mlo_lbg.data.layout import Source
from mlo_lbg.data.tabular import Shares, Table, encode, random_parts, read_table, split

Attribute = Literal["sex", "race"]

SOURCE = Source(name="COMPAS", homepage="https://github.com/propublica/compas-analysis")
FILE = "compas-scores-two-years.csv"
ADDRESS = f"https://raw.githubusercontent.com/propublica/compas-analysis/master/{FILE}"
NUMERICAL = ("age", "juv_fel_count", "juv_misd_count", "juv_other_count", "priors_count")
CATEGORICAL = ("age_cat", "c_charge_degree", "c_charge_desc")
RACES = ("African-American", "Asian", "Caucasian", "Hispanic", "Native American", "Other")
VALUES = {"sex": ("Female", "Male"), "race": ("not Caucasian", "Caucasian")}
DEFAULT_SHARES = Shares(train=0.7, test=0.3)


def _usual_rows(table: Table) -> Table:
    """The rows that ProPublica studied: screened within 30 days of the arrest, with an outcome."""
    screened = table.where(table.text("days_b_screening_arrest") != "")
    days = np.abs(screened.numbers("days_b_screening_arrest"))
    return screened.where(
        (days <= 30)
        & (screened.text("is_recid") != "-1")
        & (screened.text("c_charge_degree") != "O")
        & (screened.text("score_text") != "N/A")
    )


def compas(
    root: Path,
    *,
    attribute: Attribute = "sex",
    shares: Shares = DEFAULT_SHARES,
    attribute_in_inputs: bool = False,
    download: bool = False,
    seed: int,
) -> Collection:
    """Read COMPAS as the Fair Fairness Benchmark does: ProPublica's 6,172 rows of 7,214.

    Inputs are age as a number and as a category, counts of juvenile offences and priors, degree
    and description of the charge, and that one of sex and race which is not the attribute. The
    division is that of `adult`: 70% for training and 30% for testing unless `shares` says
    otherwise.

    Args:
        root: Folder with `compas-scores-two-years.csv` (or `compas.csv`), or that file itself.
        attribute: *sex* (0 Female, 1 Male) or *race* (0 not Caucasian, 1 Caucasian).
        shares: Shares of the rows for training and testing.
        attribute_in_inputs: Give the attribute to the model among its inputs.
        download: Fetch the file from ProPublica's repository into `root` if it is not there.
        seed: Decides the division.

    Returns:
        Inputs `(rows, features)` float32; class 1 is a new charge within two years.

    Raises:
        DataError: If the file is missing or broken, or a setting is unknown.

    References:
        Angwin et al. (2016), Machine bias, ProPublica.
        Han et al. (2024), FFB: A fair fairness benchmark, arXiv:2306.09468.
    """
    if attribute not in get_args(Attribute):
        raise DataError(
            f"attribute: expected one of {', '.join(get_args(Attribute))}, got {attribute!r}"
            + nearest(attribute, get_args(Attribute))
        )
    if download:
        try:
            download_url(ADDRESS, str(root), filename=FILE)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"download: cannot fetch {ADDRESS} ({reason})") from error
    names = (FILE, "compas.csv", f"compas/{FILE}")
    table = _usual_rows(read_table(root if root.is_file() else SOURCE.locate(root, *names)))
    targets = table.codes("two_year_recid", {"0": 0, "1": 1})
    meaning = {
        "sex": {"Female": 0, "Male": 1},
        "race": {race: int(race == "Caucasian") for race in RACES},
    }
    parts = random_parts(targets, shares, seed=seed)
    demographic = [name for name in ("race", "sex") if name != attribute or attribute_in_inputs]
    inputs = encode(
        table, numerical=NUMERICAL, categorical=(*CATEGORICAL, *demographic), train=parts[0]
    )
    return Collection(
        split=split(
            inputs,
            targets,
            table.codes(attribute, meaning[attribute]),
            parts,
            num_classes=2,
            num_attributes=2,
        ),
        classes=("no new charge", "charged again"),
        attribute=attribute,
        values=VALUES[attribute],
        channels=None,
    )
