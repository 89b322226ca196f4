"""Cells of the training examples: the pairs of class and attribute value."""

import torch
from torch import Tensor

from mlo_lbg.data.dataset import Examples


def cells(examples: Examples) -> Tensor:
    """The cell `y · A + a` of each example, with A attribute values.

    Returns:
        `(examples,)` int64 in `0 .. num_classes · num_attributes - 1`.

    >>> pair = Examples(
    ...     inputs=torch.zeros(2, 1), targets=torch.tensor([0, 1]), attribute=torch.tensor([1, 0]),
    ...     num_classes=2, num_attributes=3,
    ... )
    >>> cells(pair)
    tensor([1, 3])
    """
    return examples.targets * examples.num_attributes + examples.attribute


def cell_sizes(examples: Examples) -> Tensor:
    """The number of examples of each class with each attribute value.

    Returns:
        `(classes, attribute values)` int64 counts; 0 for a cell without examples.

    >>> three = Examples(
    ...     inputs=torch.zeros(3, 1), targets=torch.tensor([0, 1, 1]),
    ...     attribute=torch.tensor([1, 0, 0]), num_classes=2, num_attributes=2,
    ... )
    >>> cell_sizes(three)
    tensor([[0, 1],
            [2, 0]])
    """
    shape = (examples.num_classes, examples.num_attributes)
    return torch.bincount(cells(examples), minlength=shape[0] * shape[1]).reshape(shape)
