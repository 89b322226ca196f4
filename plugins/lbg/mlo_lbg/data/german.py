"""German credit: is a loan applicant a good risk?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mlo.errors import nearest
from mlo_lbg.data.collection import Collection
from mlo_lbg.data.dataset import DataError
from mlo_lbg.data.layout import Source
from mlo_lbg.data.tabular import (
    Shares,
    Table,
    encode,
    openml_table,
    random_parts,
    read_table,
    split,
)

Attribute = Literal["sex"]

SOURCE = Source(
    name="German credit", homepage="https://archive.ics.uci.edu/dataset/144/german+credit+data"
)
OFFICIAL_COLUMNS = (
    "checking_status",
    "duration",
    "credit_history",
    "purpose",
    "credit_amount",
    "savings_status",
    "employment",
    "installment_commitment",
    "personal_status",
    "other_parties",
    "residence_since",
    "property_magnitude",
    "age",
    "other_payment_plans",
    "housing",
    "existing_credits",
    "job",
    "num_dependents",
    "own_telephone",
    "foreign_worker",
    "class",
)
DEFAULT_SHARES = Shares(train=0.7, test=0.3)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How one of the published files names its columns and codes.

    Args:
        numerical: Columns of numbers.
        sex: Column that tells the sex, perhaps with the marital status.
        sexes: Its codes: 0 female, 1 male.
        target: Column of targets.
        risks: Its codes: 0 bad, 1 good.
        unused: Columns that are neither inputs nor any of these.
    """

    numerical: tuple[str, ...]
    sex: str
    sexes: Mapping[str, int]
    target: str
    risks: Mapping[str, int]
    unused: tuple[str, ...] = ()


OFFICIAL = _Form(
    numerical=(
        "duration",
        "credit_amount",
        "installment_commitment",
        "residence_since",
        "age",
        "existing_credits",
        "num_dependents",
    ),
    sex="personal_status",
    sexes={
        "A91": 1,
        "A92": 0,
        "A93": 1,
        "A94": 1,
        "A95": 0,
        "male single": 1,
        "male div/sep": 1,
        "male mar/wid": 1,
        "female div/dep/mar": 0,
        "female single": 0,
    },
    target="class",
    risks={"2": 0, "1": 1, "bad": 0, "good": 1},
)
SPELT_OUT = _Form(
    numerical=(
        "duration",
        "credit-amount",
        "installment-rate",
        "residence-since",
        "age",
        "existing-credits",
        "numner-people-provide-maintenance-for",
    ),
    sex="sex",
    sexes={"female": 0, "male": 1},
    target="class-label",
    risks={"0": 0, "1": 1},
    unused=("marital-status",),
)


def _read(root: Path) -> tuple[Table, _Form]:
    names = ("german.data", "german.csv", "german_credit.csv", "german/german.data")
    path = root if root.is_file() else SOURCE.locate(root, *names)
    if path.suffix == ".data":
        return read_table(path, names=OFFICIAL_COLUMNS, delimiter=" "), OFFICIAL
    table = read_table(path)
    return table, SPELT_OUT if SPELT_OUT.target in table.columns else OFFICIAL


def german(
    root: Path,
    *,
    attribute: Attribute = "sex",
    shares: Shares = DEFAULT_SHARES,
    attribute_in_inputs: bool = False,
    download: bool = False,
    seed: int,
) -> Collection:
    """Read German credit: 1,000 applicants, 700 of them good risks.

    The official file tells sex and marital status in one field, and the status of a woman hardly
    at all, so that field is the attribute only: marital status is no input even where a file has
    it apart. The rows are few: 70% are for training and 30% for testing unless `shares` says
    otherwise.

    Args:
        root: Folder with `german.data` in the official form, or with `german.csv` (or
            `german_credit.csv`) that spells the categories out, or such a file itself.
        attribute: *sex* (0 female, 1 male).
        shares: Shares of the rows for training and testing.
        attribute_in_inputs: Give the attribute to the model among its inputs.
        download: Fetch the rows (`credit-g`) from openml.org instead and keep them in `root`.
        seed: Decides the division.

    Returns:
        Inputs `(rows, features)` float32; class 1 is a good risk.

    Raises:
        DataError: If the file is missing or broken, or a setting is unknown.

    References:
        Hofmann (1994), Statlog (German credit data), UCI Machine Learning Repository,
        doi:10.24432/C5NC77.
    """
    if attribute not in get_args(Attribute):
        raise DataError(
            f"attribute: expected sex, got {attribute!r}" + nearest(attribute, get_args(Attribute))
        )
    if download:
        table = openml_table("credit-g", version=1, root=root, target="class")
        form = OFFICIAL
    else:
        table, form = _read(root)
    targets = table.codes(form.target, form.risks)
    sexes = table.codes(form.sex, form.sexes)
    parts = random_parts(targets, shares, seed=seed)
    other = {*form.numerical, form.sex, form.target, *form.unused}
    categorical = [name for name in table.columns if name not in other]
    if attribute_in_inputs:
        table = table.joined("sex of applicant", sexes.astype(str).astype(object))
        categorical.append("sex of applicant")
    inputs = encode(table, numerical=form.numerical, categorical=categorical, train=parts[0])
    return Collection(
        split=split(inputs, targets, sexes, parts, num_classes=2, num_attributes=2),
        classes=("bad", "good"),
        attribute=attribute,
        values=("female", "male"),
        channels=None,
    )
