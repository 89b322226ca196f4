"""Minibatches whose rows are drawn with given probabilities."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mlo_lbg.baselines.fair.errors import FairBaselineError
from mlo_lbg.data.batches import Batch
from mlo_lbg.data.dataset import Examples


class Drawn:
    """Each pass draws N rows with replacement, row n with probability `w_n / Σ w`.

    A pass has as many batches as one over the examples themselves, so that an epoch costs the same.

    Args:
        examples: N examples; tensors stay on their device.
        weights: `(examples,)` weights of 0 or more, not all 0.
        size: Rows in a batch; the last one of a pass may be smaller.
        seed: Decides all passes.

    Attributes:
        generator: The source of draws and augmentations; its state is all that has to be saved to
            resume.

    Raises:
        FairBaselineError: If the weights have the wrong length or range, or `size` is below 1.

    >>> four = Examples(
    ...     inputs=torch.arange(4.0), targets=torch.zeros(4, dtype=torch.int64),
    ...     attribute=torch.zeros(4, dtype=torch.int64), num_classes=1, num_attributes=1,
    ... )
    >>> drawn = Drawn(four, torch.tensor([0.0, 0.0, 1.0, 0.0]), size=3, seed=0)
    >>> [index.tolist() for index, inputs, targets in drawn]
    [[2, 2, 2], [2]]
    """

    def __init__(self, examples: Examples, weights: Tensor, *, size: int, seed: int) -> None:
        if size < 1:
            raise FairBaselineError(f"size: expected at least 1 row in a batch, got {size}")
        if weights.shape != (len(examples),):
            raise FairBaselineError(
                f"weights: expected shape ({len(examples)},), got {tuple(weights.shape)}"
            )
        self._weights = weights.detach().double().cpu()
        if not ((self._weights >= 0) & self._weights.isfinite()).all() or not self._weights.any():
            raise FairBaselineError("weights: expected finite numbers of 0 or more, not all 0")
        self.examples = examples
        self.size = size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.examples) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        examples = self.examples
        rows = torch.multinomial(
            self._weights, len(examples), replacement=True, generator=self.generator
        )
        for index in torch.split(rows.to(examples.targets.device), self.size):
            inputs = examples.inputs[index]
            if examples.augment is not None:
                inputs = examples.augment(inputs, self.generator)
            yield index, inputs, examples.targets[index]
