from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlo_lbg.data.adult as adult_module
import mlo_lbg.data.compas as compas_module
import mlo_lbg.data.german as german_module
from mlo.errors import MloError
from mlo_lbg.data.adult import adult
from mlo_lbg.data.compas import compas
from mlo_lbg.data.dataset import DataError
from mlo_lbg.data.german import OFFICIAL_COLUMNS, german
from mlo_lbg.data.tabular import Shares, Table, encode, random_parts, read_table

HALVES = Shares(train=0.5, test=0.5)
ADULT_ROW = (
    "{age}, {work}, 77516, Bachelors, 13, Never-married, Sales, Husband, {race}, {sex}, {gain}, 0,"
    " 40, Cuba, {income}"
)


def complaint(read: Callable[[], object]) -> str:
    """The message of the error in which `read` ends, or nothing."""
    try:
        read()
    except MloError as error:
        return str(error)
    return ""


def adult_lines(rows: int, dot: str = "") -> list[str]:
    return [
        ADULT_ROW.format(
            age=20 + n,
            work=("Private", "State-gov")[n % 2],
            race=("White", "Black", "Other")[n % 3],
            sex=("Male", "Female")[n // 2 % 2],
            gain=n * n,
            income=("<=50K", ">50K")[n // 3 % 2] + dot,
        )
        for n in range(rows)
    ]


def write_adult(root: Path, train: list[str], test: list[str]) -> None:
    (root / "adult.data").write_text("\n".join([*train, "", ""]))
    (root / "adult.test").write_text("\n".join(["|1x3 Cross validator", *test, ""]))


def test_adult_official_division_and_codes(tmp_path: Path) -> None:
    broken = ADULT_ROW.format(age=1, work="?", race="White", sex="Male", gain=0, income=">50K")
    write_adult(tmp_path, [broken, *adult_lines(24)], adult_lines(12, "."))
    read = adult(tmp_path, shares=None, seed=0)
    train, test = read.split.train, read.split.test
    assert (len(train), len(test)) == (24, 12)
    assert train.attribute[:4].tolist() == [1, 1, 0, 0]
    assert train.targets[:6].tolist() == [0, 0, 0, 1, 1, 1]
    # five numbers; two employers, four constant columns of one category, country; three races
    assert train.inputs.shape == (24, 5 + 2 + 5 + 3)
    assert train.inputs[:, :5].mean(0).abs().max() < 1e-5
    assert train.inputs[:, 0].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert test.inputs[:, 0].mean().abs() > 0.1
    assert read.values == ("Female", "Male")


def test_adult_race_and_attribute_among_inputs(tmp_path: Path) -> None:
    write_adult(tmp_path, adult_lines(24), adult_lines(24, "."))
    race = adult(tmp_path, attribute="race", shares=HALVES, seed=0)
    assert race.values == ("not White", "White")
    assert len(race.split.train) + len(race.split.test) == 48
    share = torch.cat([race.split.train.attribute, race.split.test.attribute]).sum()
    assert int(share) == 16
    two = adult(tmp_path, attribute="race", only_white_and_black=True, shares=HALVES, seed=0)
    assert two.values == ("Black", "White")
    assert len(two.split.train) + len(two.split.test) == 32
    told = adult(tmp_path, shares=HALVES, attribute_in_inputs=True, seed=0)
    hidden = adult(tmp_path, shares=HALVES, seed=0)
    assert told.split.train.inputs.shape[1] == hidden.split.train.inputs.shape[1] + 2
    assert told.split.train.inputs[:, -1].to(torch.int64).equal(told.split.train.attribute)


def test_the_seed_decides_the_division(tmp_path: Path) -> None:
    write_adult(tmp_path, adult_lines(30), adult_lines(30, "."))
    first, again, other = (adult(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert first.split.train.inputs.equal(again.split.train.inputs)
    assert not first.split.train.inputs.equal(other.split.train.inputs)
    assert (len(first.split.train), len(first.split.test)) == (42, 18)


def test_adult_without_files_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'adult\.data' .* get it from https://archive\.ics"):
        adult(tmp_path, seed=0)
    with pytest.raises(DataError, match=r"attribute: .* got 'sexx' \(did you mean 'sex'\?\)"):
        adult(tmp_path, attribute="sexx", seed=0)
    with pytest.raises(DataError, match="shares: expected shares with download=True"):
        adult(tmp_path, shares=None, download=True, seed=0)


COMPAS_COLUMNS = (
    "id,sex,age,age_cat,race,juv_fel_count,decile_score,juv_misd_count,juv_other_count,"
    "priors_count,days_b_screening_arrest,c_charge_degree,c_charge_desc,is_recid,score_text,"
    "priors_count,two_year_recid"
)


def compas_text(rows: int) -> str:
    lines = [
        f"{n},{('Male', 'Female')[n % 2]},{20 + n},25 - 45,{('Other', 'Caucasian')[n // 2 % 2]},"
        f'0,1,0,0,{n},{n % 5}.0,F,"Theft, {n % 3}",0,Low,{n},{n // 3 % 2}'
        for n in range(rows)
    ]
    left_out = [
        line.replace(old, new)
        for line, old, new in (
            (lines[0], ",0.0,F", ",31.0,F"),
            (lines[0], ",0.0,F", ",,F"),
            (lines[0], ",F,", ",O,"),
            (lines[0], "Low", "N/A"),
            (lines[0], ",0,Low", ",-1,Low"),
        )
    ]
    return "\n".join([COMPAS_COLUMNS, *left_out, *lines])


def test_compas_keeps_the_usual_rows(tmp_path: Path) -> None:
    (tmp_path / "compas-scores-two-years.csv").write_text(compas_text(24))
    read = compas(tmp_path, shares=HALVES, seed=0)
    assert len(read.split.train) + len(read.split.test) == 24
    # five numbers, one age category, one degree, three descriptions, two races
    assert read.split.train.inputs.shape[1] == 5 + 1 + 1 + 3 + 2
    assert int(torch.cat([p.attribute for p in (read.split.train, read.split.test)]).sum()) == 12
    race = compas(tmp_path / "compas-scores-two-years.csv", attribute="race", seed=0)
    assert race.values == ("not Caucasian", "Caucasian")


def test_compas_downloads_only_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(address: str, root: str, filename: str) -> None:
        Path(root, filename).write_text(compas_text(24))

    monkeypatch.setattr(compas_module, "download_url", fetch)
    with pytest.raises(DataError, match="propublica"):
        compas(tmp_path, seed=0)
    assert compas(tmp_path, download=True, seed=0).attribute == "sex"

    def fail(address: str, root: str, filename: str) -> None:
        raise OSError("no\nroute")

    monkeypatch.setattr(compas_module, "download_url", fail)
    with pytest.raises(DataError, match=r"download: cannot fetch https://raw.* \(no route\)$"):
        compas(tmp_path, download=True, seed=0)


def german_official(rows: int) -> list[str]:
    return [
        f"A11 {n} A34 A43 {100 * n} A65 A75 4 {('A93', 'A92')[n % 2]} A101 4 A121 {20 + n} A143 "
        f"A152 2 A173 1 A192 A201 {1 + n // 3 % 2}"
        for n in range(rows)
    ]


def test_german_official_and_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "german.data").write_text("\n".join(german_official(20)))
    read = german(tmp_path, seed=0)
    assert (len(read.split.train), len(read.split.test)) == (14, 6)
    assert read.split.train.inputs.shape[1] == 7 + 12
    assert german(tmp_path, attribute_in_inputs=True, seed=0).split.train.inputs.shape[1] == 21
    header = (
        "purpose,duration,credit-amount,installment-rate,residence-since,age,existing-credits,"
        "numner-people-provide-maintenance-for,sex,marital-status,class-label"
    )
    lines = [
        f"tv,{n},1,1,1,30,1,1,{('male', 'female')[n % 2]},x{n},{n // 3 % 2}" for n in range(20)
    ]
    path = tmp_path / "german.csv"
    path.write_text("\n".join([header, *lines]))
    spelt = german(path, seed=0)
    assert spelt.split.train.inputs.shape[1] == 7 + 1
    assert spelt.classes == ("bad", "good")
    path.write_text("\n".join([header, lines[0].replace("male", "mail"), *lines]))
    with pytest.raises(DataError, match=r"sex: expected one of .*, got 'mail' in row 1"):
        german(path, seed=0)


def test_german_and_adult_from_openml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(name: str, *, version: int, root: Path, target: str) -> Table:
        assert root == tmp_path
        if name == "adult":
            write_adult(tmp_path, adult_lines(20), [])
            return read_table(tmp_path / "adult.data", names=adult_module.COLUMNS)
        (tmp_path / "g").write_text("\n".join(german_official(20)))
        return read_table(tmp_path / "g", names=OFFICIAL_COLUMNS, delimiter=" ")

    monkeypatch.setattr(adult_module, "openml_table", table)
    monkeypatch.setattr(german_module, "openml_table", table)
    assert len(adult(tmp_path, shares=HALVES, download=True, seed=0).split.test) == 10
    assert len(german(tmp_path, download=True, seed=0).split.test) == 6


def test_statistics_come_from_the_training_rows_only() -> None:
    numbers = np.array(["0", "2", "100"], dtype=object)
    table = Table(source="t", columns={"n": numbers, "c": np.array(["a", "b", "c"], dtype=object)})
    found = encode(table, numerical=["n"], categorical=["c"], train=np.array([0, 1]))
    assert found.tolist() == [[-1, 1, 0, 0], [1, 0, 1, 0], [99, 0, 0, 1]]


@settings(max_examples=40, deadline=None)
@given(
    ones=st.integers(8, 40),
    zeros=st.integers(8, 40),
    train=st.floats(0.3, 0.6),
    test=st.floats(0.2, 0.4),
    seed=st.integers(0, 99),
)
def test_parts_are_disjoint_and_keep_class_shares(ones, zeros, train, test, seed) -> None:
    targets = np.array([1] * ones + [0] * zeros)
    shares = Shares(train=train, test=test)
    first, second = random_parts(targets, shares, seed=seed)
    assert not set(first.tolist()) & set(second.tolist())
    assert abs(len(second) - test * len(targets)) <= 1
    for part in (first, second):
        assert abs(targets[part].sum() - ones * len(part) / len(targets)) <= 1


TEXT = st.one_of(
    st.binary(max_size=200),
    st.text(alphabet='0123456789,.-"\n? abcNKMF<>=\x00é', max_size=200).map(str.encode),
    st.integers(0, 400).map(lambda end: "\n".join(adult_lines(6)).encode()[:end]),
    st.integers(0, 600).map(lambda end: compas_text(6).encode()[:end]),
    st.tuples(st.integers(0, 900), st.binary(min_size=1, max_size=3)).map(
        lambda cut: compas_text(6).encode()[: cut[0]] + cut[1] + compas_text(6).encode()[cut[0] :]
    ),
)


@pytest.mark.parametrize("read", [adult, compas, german])
def test_any_bytes_end_in_a_result_or_in_one_line(read, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("fuzz")

    @settings(max_examples=80, deadline=None)
    @given(content=TEXT)
    def check(content: bytes) -> None:
        for name in ("adult.data", "adult.test", "german.data", "compas.csv"):
            (root / name).write_bytes(content)
        message = complaint(lambda: read(root, seed=0))
        assert "\n" not in message
        assert len(message) < 600

    check()
