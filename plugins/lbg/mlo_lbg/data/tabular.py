"""Tables of text as tensors: standardised numbers beside one-hot categories."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

from mlo.errors import nearest
from mlo_lbg.data.dataset import DataError, Examples, Split

Column = NDArray[np.object_]
LARGEST = 1e12
"""Numbers beyond this are mistakes; their squares would spoil a float64 variance."""


def shown(value: str) -> str:
    """The text in quotes, shortened for a one-line message."""
    return repr(value if len(value) <= 40 else value[:37] + "...")


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Columns of text, all equally long.

    Args:
        source: Where it was read from, for errors.
        columns: `(rows,)` array of str under each name.

    >>> table = Table(
    ...     source="a.csv", columns={"age": np.array(["30", "x"], dtype=object)}
    ... )
    >>> table.numbers("age")
    Traceback (most recent call last):
    ...
    mlo_lbg.data.dataset.DataError: 'a.csv': age: expected a number, got 'x' in row 2
    """

    source: str
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return next((len(column) for column in self.columns.values()), 0)

    def text(self, name: str) -> Column:
        """The column of that name.

        Raises:
            DataError: If there is none.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.source!r}: expected a column {name!r}, found {len(self.columns)} others"
                + nearest(name, self.columns)
            )
        return self.columns[name]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """The column as numbers; missing ones are an error.

        Raises:
            DataError: If a field is not a number of at most 1e12 in size.
        """
        values = np.empty(len(self), dtype=np.float64)
        for row, field in enumerate(self.text(name)):
            try:
                values[row] = float(field)
            except ValueError:
                values[row] = np.nan
            if not abs(values[row]) <= LARGEST:
                raise DataError(
                    f"{self.source!r}: {name}: expected a number, "
                    f"got {shown(field)} in row {row + 1}"
                )
        return values

    def codes(self, name: str, meaning: Mapping[str, int]) -> NDArray[np.int64]:
        """The column with every text replaced by its code.

        Raises:
            DataError: If a text has no code.
        """
        column = self.text(name)
        for row, field in enumerate(column):
            if field not in meaning:
                raise DataError(
                    f"{self.source!r}: {name}: expected one of {', '.join(map(repr, meaning))}, "
                    f"got {shown(field)} in row {row + 1}"
                )
        return np.array([meaning[field] for field in column], dtype=np.int64)

    def where(self, rows: NDArray[Any]) -> Self:
        """The rows that a `(rows,)` bool mask selects."""
        kept = {name: column[rows] for name, column in self.columns.items()}
        return type(self)(source=self.source, columns=kept)

    def joined(self, name: str, column: Column) -> Self:
        """This table with a further column."""
        return type(self)(source=self.source, columns={**self.columns, name: column})

    def stacked(self, other: Self) -> Self:
        """These rows followed by those of `other`, in the columns of this table."""
        both = {name: np.concatenate([self.text(name), other.text(name)]) for name in self.columns}
        return type(self)(source=self.source, columns=both)


def read_table(
    path: Path, *, names: Sequence[str] | None = None, delimiter: str = ",", skip: int = 0
) -> Table:
    """The fields of a text file with one row a line; blanks around a field are dropped.

    Args:
        path: A UTF-8 file.
        names: Names of the columns; by default the first line has them. Of two columns with one
            name the first counts.
        delimiter: What separates fields.
        skip: Lines to leave out at the beginning.

    Raises:
        DataError: If the file cannot be read, has no row, or a row has too few or too many fields.
    """
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(lines.line_num, row) for row in lines if row]
    except OSError as error:
        raise DataError(f"{source!r}: expected a readable file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source!r}: expected UTF-8 text, byte {error.start} is not") from error
    except csv.Error as error:
        raise DataError(
            f"{source!r}: expected fields separated by {delimiter!r} ({error})"
        ) from error
    rows = rows[skip:]
    if names is None and rows:
        names = [field.strip() for field in rows[0][1]]
        rows = rows[1:]
    if names is None or not rows:
        raise DataError(f"{source!r}: expected at least one row, found none")
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"{source!r}: line {line}: expected {len(names)} fields, got {len(row)}"
            )
    columns: dict[str, Column] = {}
    for place, name in enumerate(names):
        fields = np.array([row[place].strip() for _, row in rows], dtype=object)
        columns.setdefault(name, fields)
    return Table(source=source, columns=columns)


def openml_table(name: str, *, version: int, root: Path, target: str) -> Table:
    """A data set of openml.org, fetched by scikit-learn and kept in the folder `root`.

    Args:
        name: Its name there.
        version: Which of the data sets of that name.
        root: Where the download is kept; a second call reads it from there.
        target: Name that the column of targets gets; features keep theirs.

    Raises:
        DataError: If it cannot be fetched.
    """
    try:
        fetched = fetch_openml(
            name, version=version, data_home=str(root), as_frame=True, parser="liac-arff"
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"download: cannot fetch {name!r} from openml.org ({reason})") from error
    frame = fetched.data.assign(**{target: fetched.target})
    return Table(
        source=f"openml.org {name}",
        columns={
            str(column): np.array(
                [
                    "?" if missing else str(field)
                    for field, missing in zip(frame[column], frame[column].isna(), strict=True)
                ],
                dtype=object,
            )
            for column in frame
        },
    )


def encode(
    table: Table, *, numerical: Sequence[str], categorical: Sequence[str], train: NDArray[np.int64]
) -> Tensor:
    """Numbers minus their mean over their deviation in the rows `train`, then 0/1 by category.

    A category is a text that occurs anywhere in the table, so that the width does not depend on
    how rows are divided. A number that never varies in `train` is only centred.

    Args:
        table: What is encoded.
        numerical: Columns of numbers.
        categorical: Columns of categories.
        train: `(training rows,)` row numbers that the statistics are taken from.

    Returns:
        `(rows, features)` float32.

    Raises:
        DataError: If a column is missing or has something other than a number.
    """
    numbers = np.stack([table.numbers(name) for name in numerical], axis=1)
    texts = np.stack([table.text(name) for name in categorical], axis=1)
    scaled = StandardScaler().fit(numbers[train]).transform(numbers)
    encoded = OneHotEncoder(sparse_output=False).fit_transform(texts)
    return torch.from_numpy(np.concatenate([scaled, encoded], axis=1).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How many of the rows are for training and for testing; what is left over is not used.

    Args:
        train: Share of the rows, above 0.
        test: Share of the rows, above 0; at most 1 together with `train`.

    Raises:
        DataError: If a share is out of range.

    >>> Shares(train=0.8, test=0.3)
    Traceback (most recent call last):
    ...
    mlo_lbg.data.dataset.DataError: shares: expected positive shares of at most 1, got 0.8 + 0.3
    """

    train: float
    test: float

    def __post_init__(self) -> None:
        if not (self.train > 0 and self.test > 0 and self.train + self.test <= 1 + 1e-9):
            raise DataError(
                f"shares: expected positive shares of at most 1, got {self.train} + {self.test}"
            )


Parts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""`(training rows,)` and `(test rows,)` row numbers."""


def random_parts(targets: NDArray[np.int64], shares: Shares, *, seed: int) -> Parts:
    """Disjoint random rows for training and testing, each with the class shares of the whole.

    Raises:
        DataError: If there are too few rows of a class.
    """
    rows = np.arange(len(targets))
    test_rows = max(round(shares.test * len(rows)), 1)
    train_rows = min(max(round(shares.train * len(rows)), 1), len(rows) - test_rows)
    try:
        train, test = train_test_split(
            rows, train_size=train_rows, test_size=test_rows, stratify=targets, random_state=seed
        )
    except ValueError as error:
        counts = np.bincount(targets).tolist() if len(targets) else []
        raise DataError(
            f"shares: expected enough rows of every class for train {shares.train} and "
            f"test {shares.test}, got {counts} rows by class"
        ) from error
    return train, test


def split(
    inputs: Tensor,
    targets: NDArray[np.int64],
    attribute: NDArray[np.int64],
    parts: Parts,
    *,
    num_classes: int,
    num_attributes: int,
) -> Split:
    """The rows of `parts` as a split.

    Args:
        inputs: `(rows, ...)`.
        targets: `(rows,)` class.
        attribute: `(rows,)` attribute.
        parts: Row numbers of either part.
        num_classes: Number of classes.
        num_attributes: Number of attribute values.
    """
    everything = Examples(
        inputs=inputs,
        targets=torch.from_numpy(targets),
        attribute=torch.from_numpy(attribute),
        num_classes=num_classes,
        num_attributes=num_attributes,
    )
    train, test = (everything.subset(torch.from_numpy(part)) for part in parts)
    return Split(train=train, test=test)
