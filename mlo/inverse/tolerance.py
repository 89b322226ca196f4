"""When a residual counts as zero."""

import math

import torch
from torch import Tensor


def default_tolerance(vector_norm: Tensor) -> float:
    """Return ``eps^(3/4)`` of the dtype: 1.8e-12 in float64, 6.4e-6 in float32.

    Rounding stops most solves between there and ``eps``, so asking for less would never be met.

    >>> f"{default_tolerance(torch.ones((), dtype=torch.float64)):.1e}"
    '1.8e-12'
    """
    return math.pow(torch.finfo(vector_norm.dtype).eps, 0.75)


def relative(residual_norm: Tensor, vector_norm: Tensor) -> Tensor:
    """Return ``residual_norm / vector_norm``, and zero where the vector is zero.

    >>> relative(torch.zeros(()), torch.zeros(()))
    tensor(0.)
    """
    safe = torch.where(vector_norm > 0, vector_norm, torch.ones_like(vector_norm))
    return residual_norm / safe
