"""From what users of scikit-learn have at hand to tensors."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from mlo.errors import MloError


class InputError(MloError):
    """Examples do not have the form that the estimator needs."""


class Pairs(NamedTuple):
    """What a dataset of pairs holds.

    Attributes:
        inputs: `(examples, ...)`, on the CPU.
        targets: `(examples,)` labels of any type.
    """

    inputs: Tensor
    targets: NDArray[Any]


def pairs(dataset: Dataset[Any]) -> Pairs:
    """Row n holds the n-th pair of the dataset.

    Args:
        dataset: Its items are `(input, target)`: a tensor or an array, of one shape in all
            items, and a label of any type.

    Raises:
        InputError: If an item is no such pair, shapes differ, or there are no items.

    >>> found = pairs(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, 1])))
    >>> found.inputs.shape, found.targets.tolist()
    (torch.Size([3, 2]), [0, 1, 1])
    """
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        inputs, targets = dataset.tensors
        return Pairs(inputs.detach().cpu(), targets.detach().cpu().numpy())
    items = list(_items(dataset))
    for number, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(
                f"X: expected (input, target) pairs in a dataset, got {_described(item)} as item "
                f"{number}"
            )
    return Pairs(_stacked([one for one, _ in items]), _labels([target for _, target in items]))


def inputs_of(dataset: Dataset[Any]) -> Tensor:
    """Row n is the n-th input of the dataset: its item, or the first entry of an item with more.

    Args:
        dataset: As for `pairs`; targets may be absent and are not looked at.

    Raises:
        InputError: If shapes differ, or there are no items.

    >>> inputs_of(TensorDataset(torch.zeros(3, 2))).shape
    torch.Size([3, 2])
    """
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[0].detach().cpu()
    items = list(_items(dataset))
    return _stacked([item[0] if isinstance(item, tuple | list) else item for item in items])


@dataclass(frozen=True, kw_only=True)
class Form:
    """What one input looks like.

    Attributes:
        shape: Of one input: `(features,)`, or that of an image.
        pixels: Whether inputs are bytes, 0 to 255.
    """

    shape: tuple[int, ...]
    pixels: bool = False

    @classmethod
    def of(cls, inputs: Tensor) -> "Form":
        """The form of `(examples, ...)` inputs; tables are never pixels.

        >>> Form.of(torch.zeros(9, 3, 8, 8, dtype=torch.uint8))
        Form(shape=(3, 8, 8), pixels=True)
        """
        shape = tuple(inputs.shape[1:])
        return cls(shape=shape, pixels=inputs.dtype == torch.uint8 and len(shape) > 1)

    @property
    def dtypes(self) -> list[type[np.generic]]:
        """The type that inputs are converted to."""
        return [np.uint8] if self.pixels else [np.float32]

    @property
    def size(self) -> int | tuple[int, ...]:
        """The number of features of a table; the shape of anything else."""
        return self.shape[0] if len(self.shape) == 1 else self.shape

    def require(self, other: "Form") -> None:
        """Raise if inputs of the form `other` are not what was trained on.

        Raises:
            InputError: If shape or kind of number differ.
        """
        if other != self:
            raise InputError(f"X: expected {self} as in fit, got {other}")

    def __str__(self) -> str:
        return f"{'uint8 ' if self.pixels else ''}inputs of shape {self.shape}"


def rows(inputs: Tensor) -> NDArray[Any]:
    """Each input as one row of numbers, `(examples, numbers)`, without a copy.

    Raises:
        InputError: If an input is a single number, or has none.

    >>> rows(torch.zeros(2, 3, 4, 4)).shape
    (2, 48)
    """
    if inputs.ndim < 2:
        raise InputError(
            f"X: expected inputs of at least one dimension in a dataset, got shape "
            f"{tuple(inputs.shape[1:])}"
        )
    numbers: NDArray[Any] = inputs.reshape(len(inputs), -1).numpy()
    return numbers


def tensor(numbers: NDArray[Any], form: Form) -> Tensor:
    """Rows of numbers as inputs of that form; memory is not shared.

    >>> tensor(np.zeros((2, 48), dtype=np.float32), Form(shape=(3, 4, 4))).shape
    torch.Size([2, 3, 4, 4])
    """
    # A copy: what is given may be read-only, and torch has no read-only tensors.
    return torch.from_numpy(np.array(numbers, order="C")).reshape(-1, *form.shape)


class Codes(NamedTuple):
    """A column of values as numbers.

    Attributes:
        numbers: `(examples,)` int64 places in the sorted distinct values.
        num_values: Number of distinct values.
    """

    numbers: Tensor
    num_values: int


def attribute_codes(values: Any, num_examples: int) -> Codes:
    """Number the distinct values of a sensitive feature from 0, in sorted order.

    Args:
        values: One value of any sortable type for each example, as list, array or column; None for
            an attribute that is the same for all.
        num_examples: Number of examples.

    Raises:
        InputError: If there is not exactly one value for each example, or one is missing.

    >>> attribute_codes(["f", "m", "f"], 3)
    Codes(numbers=tensor([0, 1, 0]), num_values=2)
    """
    if values is None:
        return Codes(torch.zeros(num_examples, dtype=torch.int64), 1)
    column = np.asarray(values)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.shape != (num_examples,):
        raise InputError(
            f"sensitive_features: expected one value for each of the {num_examples} examples, got "
            f"shape {column.shape}"
        )
    missing = sum(_missing(value) for value in column.tolist())
    if missing:
        raise InputError(
            f"sensitive_features: expected a value for each example, got {missing} missing; give "
            f"those a value of their own"
        )
    try:
        distinct, numbers = np.unique(column, return_inverse=True)
    except TypeError as error:
        raise InputError(
            f"sensitive_features: expected values of one type, got several: {error}"
        ) from error
    return Codes(torch.from_numpy(numbers.astype(np.int64)), len(distinct))


def _missing(value: object) -> bool:
    # NaN and NaT differ from themselves; comparing pandas' NA gives NA, which is no bool.
    return value is None or (value == value) is not True


def _items(dataset: Dataset[Any]) -> Iterable[Any]:
    if isinstance(dataset, IterableDataset):
        return dataset
    return (dataset[number] for number in range(len(dataset)))  # type: ignore[arg-type]


def _stacked(inputs: list[Any]) -> Tensor:
    if not inputs:
        raise InputError("X: expected a dataset with at least one example, got an empty one")
    found = [_tensor(one, number) for number, one in enumerate(inputs)]
    for number, one in enumerate(found):
        if one.shape != found[0].shape:
            raise InputError(
                f"X: expected inputs of one shape, got {tuple(found[0].shape)} and, as item "
                f"{number}, {tuple(one.shape)}"
            )
    return torch.stack(found)


def _tensor(one: Any, number: int) -> Tensor:
    if isinstance(one, Tensor):
        return one.detach().cpu()
    # A list could as well be an input without a target as a pair.
    if not isinstance(one, np.ndarray | np.number) or one.dtype.kind not in "biuf":
        raise InputError(
            f"X: expected tensors or arrays of numbers in a dataset, got {_described(one)} as item "
            f"{number}"
        )
    return torch.from_numpy(np.array(one))


def _labels(targets: list[Any]) -> NDArray[Any]:
    return np.asarray([one.item() if isinstance(one, Tensor) else one for one in targets])


def _described(item: Any) -> str:
    return f"{len(item)} entries" if isinstance(item, tuple | list) else type(item).__name__
