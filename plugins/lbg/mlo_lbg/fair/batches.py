"""Minibatches that carry the sensitive attribute, for the problems that seek fairness."""

from collections.abc import Iterator

from torch import Tensor

from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples

FairBatch = tuple[Tensor, Tensor, Tensor, Tensor]
"""`(batch,)` row numbers, `(batch, ...)` inputs, `(batch,)` targets, `(batch,)` attribute."""


class FairBatches:
    """`Batches` with the attribute of each row as a fourth part.

    Args:
        examples: What is read.
        size: Rows in a batch.
        seed: Decides all passes, as it does those of `Batches`.

    Attributes:
        generator: The source of orders; its state is all that has to be saved to resume.

    Raises:
        DataError: If a pass would yield nothing.

    >>> import torch
    >>> codes = torch.tensor([0, 1, 1])
    >>> three = Examples(
    ...     inputs=torch.zeros(3, 1), targets=codes, attribute=codes, num_classes=2,
    ...     num_attributes=2,
    ... )
    >>> [len(batch) for batch in FairBatches(three, size=2, seed=0)]
    [4, 4]
    """

    def __init__(self, examples: Examples, *, size: int, seed: int) -> None:
        self._batches = Batches(examples, size=size, seed=seed)
        self.generator = self._batches.generator

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[FairBatch]:
        for index, inputs, targets in self._batches:
            yield index, inputs, targets, self._batches.examples.attribute[index]
