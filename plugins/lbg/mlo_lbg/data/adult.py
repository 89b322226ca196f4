"""Adult: does a person of the 1994 census earn more than 50,000 dollars a year?"""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mlo.errors import nearest
from mlo_lbg.data.collection import Collection
from mlo_lbg.data.dataset import DataError
from mlo_lbg.data.layout import Source
from mlo_lbg.data.tabular import (
    Parts,
    Shares,
    Table,
    encode,
    openml_table,
    random_parts,
    read_table,
    split,
)

Attribute = Literal["sex", "race"]

SOURCE = Source(name="Adult", homepage="https://archive.ics.uci.edu/dataset/2/adult")
NUMERICAL = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORICAL = (
    "workclass",
    "education",
    "marital-status",
    "occupation",
    "relationship",
    "native-country",
)
COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
)
INCOME = {"<=50K": 0, "<=50K.": 0, ">50K": 1, ">50K.": 1}
RACES = ("White", "Black", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other")
VALUES = {"sex": ("Female", "Male"), "race": ("not White", "White")}
DEFAULT_SHARES = Shares(train=0.7, test=0.3)


def _complete(table: Table) -> NDArray[np.bool_]:
    """`(rows,)` true where no feature is missing."""
    known = np.ones(len(table), dtype=np.bool_)
    for name in (*CATEGORICAL, "race", "sex"):
        known &= table.text(name) != "?"
    return known


def adult(
    root: Path,
    *,
    attribute: Attribute = "sex",
    shares: Shares | None = DEFAULT_SHARES,
    only_white_and_black: bool = False,
    attribute_in_inputs: bool = False,
    download: bool = False,
    seed: int,
) -> Collection:
    """Read Adult as the Fair Fairness Benchmark does: complete rows, divided at random.

    Of 48,842 rows 45,222 are complete. Like that benchmark, `fnlwgt` (a census weight) and the
    sensitive attribute are not among the inputs; everything else is, with both forms of education.
    Its division is 40% for training, 30% for validation and 30% for testing, each with the class
    shares of the whole; as a search divides training examples itself, validation rows are for
    training here. `Shares(train=0.4, test=0.3)` leaves them out. `shares=None` is the official
    division instead, `adult.data` and `adult.test`, in which the seed decides nothing.

    Args:
        root: Folder with `adult.data` and `adult.test`, or with a folder `adult` of them.
        attribute: *sex* (0 Female, 1 Male) or *race* (0 not White, 1 White).
        shares: Shares of the rows for training and testing, drawn by the seed, or `None`.
        only_white_and_black: Drop people of other races, as that benchmark does to study race.
        attribute_in_inputs: Give the attribute to the model among its inputs.
        download: Fetch the rows from openml.org instead and keep them in `root`. That copy does
            not tell which of them are the official test part.
        seed: Decides the division.

    Returns:
        Inputs `(rows, features)` float32; class 1 is an income above 50,000 dollars.

    Raises:
        DataError: If a file is missing or broken, or a setting is unknown.

    References:
        Becker and Kohavi (1996), Adult, UCI Machine Learning Repository, doi:10.24432/C5XW20.
        Han et al. (2024), FFB: A fair fairness benchmark, arXiv:2306.09468.
    """
    if attribute not in get_args(Attribute):
        raise DataError(
            f"attribute: expected one of {', '.join(get_args(Attribute))}, got {attribute!r}"
            + nearest(attribute, get_args(Attribute))
        )
    if download and shares is None:
        raise DataError(
            "shares: expected shares with download=True as the copy at openml.org does not tell "
            f"the test part, got None; get the two files from {SOURCE.homepage}"
        )
    if download:
        table = openml_table("adult", version=2, root=root, target="income")
        official_train = len(table)
    else:
        train = read_table(SOURCE.locate(root, "adult.data", "adult/adult.data"), names=COLUMNS)
        test = read_table(
            SOURCE.locate(root, "adult.test", "adult/adult.test"), names=COLUMNS, skip=1
        )
        table = train.stacked(test)
        official_train = len(train)

    kept = _complete(table)
    if only_white_and_black:
        kept &= np.isin(table.text("race"), ("White", "Black"))
    official = np.arange(len(table)) < official_train
    table, official = table.where(kept), official[kept]
    targets = table.codes("income", INCOME)
    meaning = {
        "sex": {"Female": 0, "Male": 1},
        "race": {race: int(race == "White") for race in RACES},
    }
    parts: Parts = (
        (official.nonzero()[0], (~official).nonzero()[0])
        if shares is None
        else random_parts(targets, shares, seed=seed)
    )
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
        classes=("<=50K", ">50K"),
        attribute=attribute,
        values=("Black", "White")
        if attribute == "race" and only_white_and_black
        else VALUES[attribute],
        channels=None,
    )
