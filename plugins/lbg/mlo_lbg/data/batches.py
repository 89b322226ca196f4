"""Shuffled minibatches that say which rows they hold."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mlo_lbg.data.dataset import DataError, Examples

Batch = tuple[Tensor, Tensor, Tensor]
"""`(batch,)` row numbers, `(batch, ...)` inputs, `(batch,)` targets."""


class Batches:
    """Each pass yields every row once, in a new random order, as `(index, inputs, targets)`.

    `index` is the row number within `examples`, the same in every pass: assignments are addressed
    by it. The attribute is not part of a batch. Inputs are augmented as the examples say.

    Args:
        examples: What is read; tensors stay on their device.
        size: Rows in a batch; the last one of a pass may be smaller.
        seed: Decides all passes: two objects with one seed yield the same batches.
        drop_last: Skip a last batch that is smaller than `size`.

    Attributes:
        generator: The source of orders and augmentations; its state is all that has to be saved
            to resume.

    Raises:
        DataError: If a pass would yield nothing.

    >>> six = Examples(
    ...     inputs=torch.arange(6.0), targets=torch.zeros(6, dtype=torch.int64),
    ...     attribute=torch.zeros(6, dtype=torch.int64), num_classes=1, num_attributes=1,
    ... )
    >>> batches = Batches(six, size=4, seed=0)
    >>> [len(index) for index, inputs, targets in batches]
    [4, 2]
    """

    def __init__(
        self, examples: Examples, *, size: int, seed: int, drop_last: bool = False
    ) -> None:
        if size < 1:
            raise DataError(f"size: expected at least 1 row in a batch, got {size}")
        smallest = size if drop_last else 1
        if len(examples) < smallest:
            raise DataError(
                f"examples: expected at least {smallest} for batches of {size} with "
                f"drop_last={drop_last}, got {len(examples)}"
            )
        self.examples = examples
        self.size = size
        self.drop_last = drop_last
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.examples), self.size)
        return whole if self.drop_last or not rest else whole + 1

    def __iter__(self) -> Iterator[Batch]:
        examples = self.examples
        order = torch.randperm(len(examples), generator=self.generator)
        for index in torch.split(order.to(examples.targets.device), self.size)[: len(self)]:
            inputs = examples.inputs[index]
            if examples.augment is not None:
                inputs = examples.augment(inputs, self.generator)
            yield index, inputs, examples.targets[index]
