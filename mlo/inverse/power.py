"""The largest eigenvalue of a Hessian by power iteration."""

from typing import Final

import torch
from torch import Tensor

from mlo import tree
from mlo.context import Context
from mlo.inverse.memory import recalled, remember
from mlo.inverse.protocol import HessianProduct
from mlo.inverse.sketch import orthonormal_rows
from mlo.tree import Params

FIRST: Final = 8
"""Products of the first estimate of a problem."""
LATER: Final = 2
"""Products of every later one, which starts from the vector of the one before."""
_KEY: Final = "dominant"


def largest_eigenvalue(
    product: HessianProduct, vector: Params, context: Context
) -> tuple[Tensor, int]:
    """Return ``|λ|`` of the largest eigenvalue in magnitude, from below, and the products spent.

    The first iteration starts from `vector` plus a fixed random vector of half its length, so that
    it also works where `vector` is an eigenvector of another eigenvalue. Where it ends is kept in
    the memory of `context` and improves from call to call.

    >>> double = lambda v: tree.scaled(v, -2.0)
    >>> largest_eigenvalue(double, {"x": torch.ones(3).double()}, Context())
    (tensor(2., dtype=torch.float64), 8)
    """
    direction = recalled(context, _KEY, vector)
    steps = FIRST if direction is None else LATER
    if direction is None:
        length = tree.norm(vector)
        rows = orthonormal_rows(vector, 1, seed=0)
        # Of another length than the vector, so that the two cannot cancel.
        noise = {name: t[0] / 2 for name, t in rows.items()}
        direction = tree.axpy(noise, vector, 1 / torch.where(length > 0, length, 1.0))
        direction = tree.scaled(direction, 1 / tree.norm(direction))
    size = torch.zeros_like(tree.norm(vector))
    for _ in range(steps):
        image = product(direction)
        size = tree.norm(image)
        following = tree.scaled(image, 1 / torch.where(size > 0, size, 1.0))
        # A Hessian that is zero here would leave nothing to start from at the next call.
        direction = tree.axpy(following, direction, (size == 0).to(size.dtype))
    remember(context, _KEY, direction)
    return size, steps
