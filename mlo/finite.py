"""Whether an update may be applied: loss and gradient are finite."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mlo import tree
from mlo.tree import Params


def is_finite(loss: Tensor, gradient: Mapping[str, Tensor]) -> Tensor:
    """Return a 0-dim bool tensor, without waiting for the device.

    >>> is_finite(torch.tensor(1.0), {"w": torch.tensor([float("nan")])})
    tensor(False)
    """
    return torch.isfinite(loss) & torch.isfinite(tree.largest(gradient)).to(loss.device)


def zero_unless(condition: Tensor, gradient: Mapping[str, Tensor]) -> Params:
    """Return the gradient, or zeros where `condition` is false, without waiting for the device.

    >>> zero_unless(torch.tensor(False), {"w": torch.tensor([float("nan")])})
    {'w': tensor([0.])}
    """
    return {name: _zero_unless(condition, t) for name, t in gradient.items()}


def _zero_unless(condition: Tensor, tensor: Tensor) -> Tensor:
    if not tensor.is_sparse:
        return torch.where(condition, tensor, 0.0)
    stored = tensor.coalesce().clone()
    stored.values().copy_(torch.where(condition, stored.values(), 0.0))
    return stored
