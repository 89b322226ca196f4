"""Labelled examples with a sensitive attribute that no model is given."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mlo.errors import MloError

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""`(batch, ...)` inputs and a generator on the CPU to inputs of the same shape."""


class DataError(MloError):
    """A data set has the wrong shape, type or range."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """N labelled examples; row n of every tensor belongs to the same example.

    The attribute is carried for *measuring* groups and fairness. Minibatches do not contain it, so
    a model cannot read it by accident.

    Args:
        inputs: `(examples, ...)` what a model sees.
        targets: `(examples,)` int64 class of each example, in `0 .. num_classes - 1`.
        attribute: `(examples,)` int64 sensitive attribute, in `0 .. num_attributes - 1`.
        num_classes: Number of classes, including any that happen to be absent here.
        num_attributes: Number of values of the attribute, including absent ones.
        augment: What training does to each of its batches; predictions see inputs as they are.

    Raises:
        DataError: If lengths, types, devices or ranges do not fit together.

    >>> examples = Examples(
    ...     inputs=torch.zeros(3, 2),
    ...     targets=torch.tensor([0, 1, 1]),
    ...     attribute=torch.tensor([0, 0, 1]),
    ...     num_classes=2,
    ...     num_attributes=2,
    ... )
    >>> len(examples), len(examples.subset(examples.targets == 1))
    (3, 2)
    """

    inputs: Tensor
    targets: Tensor
    attribute: Tensor
    num_classes: int
    num_attributes: int
    augment: Transform | None = None

    def __post_init__(self) -> None:
        if self.inputs.ndim < 1:
            raise DataError("inputs: expected shape (examples, ...), got a scalar")
        self._check_codes("targets", self.targets, "num_classes", self.num_classes)
        self._check_codes("attribute", self.attribute, "num_attributes", self.num_attributes)

    def _check_codes(self, name: str, codes: Tensor, count_name: str, count: int) -> None:
        examples = self.inputs.shape[0]
        if codes.shape != (examples,):
            raise DataError(
                f"{name}: expected shape ({examples},) as inputs has {examples} rows, "
                f"got {tuple(codes.shape)}"
            )
        if codes.dtype != torch.int64:
            raise DataError(f"{name}: expected torch.int64, got {codes.dtype}")
        if codes.device != self.inputs.device:
            raise DataError(
                f"{name}: expected device {self.inputs.device} as inputs has, got {codes.device}"
            )
        if count < 1:
            raise DataError(f"{count_name}: expected at least 1, got {count}")
        if examples and (codes.min() < 0 or codes.max() >= count):
            raise DataError(
                f"{name}: expected values in 0..{count - 1} as {count_name} is {count}, "
                f"got {int(codes.min())}..{int(codes.max())}"
            )

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def subset(self, index: Tensor) -> Self:
        """The examples that `index` selects, in its order.

        Args:
            index: `(selected,)` int64 row numbers, or an `(examples,)` bool mask.

        >>> split = Examples(
        ...     inputs=torch.arange(3.0), targets=torch.tensor([0, 1, 0]),
        ...     attribute=torch.zeros(3, dtype=torch.int64), num_classes=2, num_attributes=1,
        ... )
        >>> split.subset(torch.tensor([2, 0])).inputs
        tensor([2., 0.])
        """
        return replace(
            self,
            inputs=self.inputs[index],
            targets=self.targets[index],
            attribute=self.attribute[index],
        )

    def to(self, device: torch.device | str) -> Self:
        """The same examples with every tensor on `device`."""
        return replace(
            self,
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            attribute=self.attribute.to(device),
        )


class Halves(NamedTuple):
    """The two disjoint parts a search works with; together they are the training examples.

    Attributes:
        train: Examples that the lower levels fit, one row of assignments each.
        validation: Examples that the upper level is judged by.
    """

    train: Examples
    validation: Examples


def divide(examples: Examples, *, validation: float, seed: int) -> Halves:
    """Random parts of `N − round(validation · N)` and `round(validation · N)` rows.

    Args:
        examples: What is divided.
        validation: Share of the rows that becomes the validation part, strictly between 0 and 1.
        seed: Decides which rows; the same seed gives the same partition.

    Raises:
        DataError: If either part would be empty.

    >>> ten = Examples(
    ...     inputs=torch.arange(10.0), targets=torch.zeros(10, dtype=torch.int64),
    ...     attribute=torch.zeros(10, dtype=torch.int64), num_classes=1, num_attributes=1,
    ... )
    >>> [len(part) for part in divide(ten, validation=0.3, seed=0)]
    [7, 3]
    """
    held_out = round(validation * len(examples))
    if not 0 < held_out < len(examples):
        raise DataError(
            f"validation: expected a share that leaves both parts non-empty, "
            f"got {validation} of {len(examples)} examples"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator).to(examples.targets.device)
    return Halves(examples.subset(order[held_out:]), examples.subset(order[:held_out]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Training examples and test examples that share no row.

    Args:
        train: Everything that fitting, tuning and searching may look at.
        test: Looked at once, by the final evaluation.

    Raises:
        DataError: If the two parts disagree in classes, attributes or the shape of an input.
    """

    train: Examples
    test: Examples

    def __post_init__(self) -> None:
        for name in ("num_classes", "num_attributes"):
            train, test = getattr(self.train, name), getattr(self.test, name)
            if train != test:
                raise DataError(f"test: expected {name} {train} as in train, got {test}")
        expected, found = self.train.inputs.shape[1:], self.test.inputs.shape[1:]
        if expected != found:
            raise DataError(
                f"test: expected inputs of shape {tuple(expected)} as in train, got {tuple(found)}"
            )

    def halves(self, seed: int) -> Halves:
        """Two disjoint halves of the training examples for a search; test is not touched."""
        return divide(self.train, validation=0.5, seed=seed)

    def to(self, device: torch.device | str) -> Self:
        """The same split with every tensor on `device`."""
        return type(self)(train=self.train.to(device), test=self.test.to(device))
