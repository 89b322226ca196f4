"""The size of a network, the width that meets a size, and the error of one that cannot be built."""

from collections.abc import Callable

import torch
from torch import nn

from mlo.errors import MloError


class ModelError(MloError):
    """A network cannot be built as asked."""


def num_parameters(module: nn.Module) -> int:
    """Number of scalars in the parameters, frozen ones included; buffers are not counted.

    >>> num_parameters(nn.Linear(2, 3))
    9
    """
    return sum(parameter.numel() for parameter in module.parameters())


def size_of(make: Callable[[], nn.Module]) -> int:
    """`num_parameters(make())` without memory for the weights or a draw of random numbers.

    >>> size_of(lambda: nn.Linear(100_000, 100_000))
    10000100000
    """
    with torch.device("meta"):
        return num_parameters(make())


def nearest_width(size: Callable[[int], int], target: float) -> int:
    """`argmin_{w ≥ 1} |size(w) − target|` of a size that grows with the width.

    Args:
        size: Number of parameters at a width; strictly increasing.
        target: Wanted number of parameters.

    >>> nearest_width(lambda width: 10 * width, 47)
    5
    """
    above = 1
    while size(above) < target:
        above *= 2
    below = max(1, above // 2)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if size(middle) < target else (below, middle)
    return min((below, above), key=lambda width: abs(size(width) - target))
