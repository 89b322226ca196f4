"""Sending each example to the one expert of its group."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from mlo_lbg.evaluating import evaluating


def dispatch(experts: Sequence[nn.Module], groups: Tensor, inputs: Tensor) -> Tensor:
    """Row n is `experts[groups[n]](inputs[n])`; an expert runs on its own rows only.

    So the cost is that of one expert on all rows, whatever the number of experts. An expert without
    rows does not run; one that is training and has a single row runs as in evaluation.
    Differentiable in inputs and experts.

    Args:
        experts: One module per group, `(batch, ...)` to `(batch, outputs)`.
        groups: `(batch,)` int64, the expert of each row.
        inputs: `(batch, ...)`.

    Returns:
        `(batch, outputs)`.

    >>> double, halve = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(double.weight, 2.0), nn.init.constant_(halve.weight, 0.5)
    >>> dispatch([double, halve], torch.tensor([1, 0]), torch.ones(2, 1)).flatten().tolist()
    [0.5, 2.0]
    """
    if not len(groups):
        return _answer(experts[0], inputs)
    order = torch.argsort(groups, stable=True)
    # Each expert's share decides a shape, so an accelerator is waited for here, once a call.
    sizes = torch.bincount(groups, minlength=len(experts)).tolist()
    outputs = [
        _answer(expert, own)
        for expert, own in zip(experts, torch.split(inputs[order], sizes), strict=True)
        if len(own)
    ]
    return torch.cat(outputs)[torch.argsort(order)]


def _answer(expert: nn.Module, inputs: Tensor) -> Tensor:
    """`expert(inputs)`, for a single row with every layer in evaluation mode."""
    # Batch statistics of a single row are undefined: normalisation layers raise.
    with evaluating(expert) if len(inputs) <= 1 and expert.training else nullcontext():
        output: Tensor = expert(inputs)
    return output
