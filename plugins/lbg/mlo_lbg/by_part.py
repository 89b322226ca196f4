"""Large sets taken apart, so that predicting on them takes bounded memory."""

from collections.abc import Callable

import torch
from torch import Tensor

_ROWS_AT_ONCE = 4096


@torch.no_grad()
def by_part(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """`function(*rows)` for a function that treats rows one by one, a part of the rows at a time.

    Args:
        function: Of `(batch, ...)` tensors, returns a `(batch, ...)` one; no gradient is kept.
        rows: `(examples, ...)` each.

    >>> by_part(lambda x, y: x + y, torch.ones(2), torch.ones(2))
    tensor([2., 2.])
    """
    parts = zip(*(torch.split(each, _ROWS_AT_ONCE) for each in rows), strict=True)
    return torch.cat([function(*part) for part in parts])
