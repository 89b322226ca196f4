"""Whether an update may be applied: loss and gradient are finite."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mlo import tree
from mlo.parallel.sharded_tensors import local, with_part
from mlo.tree import Params


def is_finite(
    loss: Tensor, gradient: Mapping[str, Tensor], size: float | Tensor | None = None
) -> bool | Tensor:
    """Return a bool on a CPU, else a 0-dim bool tensor, without waiting for the device.

    Args:
        loss: The loss, 0-dim.
        gradient: Its gradient.
        size: `tree.size` of the gradient, if it is known.

    >>> is_finite(torch.tensor(1.0), {"w": torch.tensor([float("nan")])})
    False
    """
    size = tree.size(gradient) if size is None else size
    if isinstance(size, float) and loss.device.type == "cpu":
        return math.isfinite(size) and math.isfinite(loss)
    return torch.isfinite(loss) & torch.isfinite(torch.as_tensor(size)).to(loss.device)


def zero_unless(condition: Tensor, gradient: Mapping[str, Tensor]) -> Params:
    """Return the gradient, or zeros where `condition` is false, without waiting for the device.

    >>> zero_unless(torch.tensor(False), {"w": torch.tensor([float("nan")])})
    {'w': tensor([0.])}
    """
    return {name: _zero_unless(condition, t) for name, t in gradient.items()}


def _zero_unless(condition: Tensor, tensor: Tensor) -> Tensor:
    if not tensor.is_sparse:
        return with_part(tensor, torch.where(condition, local(tensor), 0.0))
    stored = tensor.coalesce().clone()
    stored.values().copy_(torch.where(condition, stored.values(), 0.0))
    return stored
