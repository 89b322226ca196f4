"""Vectors that a solver keeps of a problem from one call to the next."""

import torch

from mlo import tree
from mlo.context import Context
from mlo.device import synchronous
from mlo.tree import Params


def recalled(context: Context, key: str, like: Params) -> Params | None:
    """Return the vector kept under `key`, or None if it does not fit `like`.

    It fits if names, shapes, dtypes and devices agree; after any of them has changed a solver
    starts afresh.

    >>> context = Context(memory={"w": {"x": torch.ones(2)}})
    >>> recalled(context, "w", {"x": torch.zeros(2)})
    {'x': tensor([1., 1.])}
    >>> recalled(context, "w", {"x": torch.zeros(3)}) is None
    True
    """
    kept = context.memory.get(key)
    if not isinstance(kept, dict) or kept.keys() != like.keys():
        return None
    fits = all(_kind(kept[name]) == _kind(tensor) for name, tensor in like.items())
    return {name: kept[name] for name in like} if fits else None


def remember(context: Context, key: str, vector: Params) -> None:
    """Keep `vector` under `key` if it is finite; otherwise what was kept before stays.

    >>> context = Context()
    >>> remember(context, "w", {"x": torch.ones(2)})
    >>> remember(context, "w", {"x": torch.full((2,), torch.nan)})
    >>> context.memory
    {'w': {'x': tensor([1., 1.])}}
    """
    finite = torch.isfinite(tree.largest(vector))
    if synchronous(finite.device):
        if finite:
            # The vector itself goes on to whoever may overwrite it.
            context.memory[key] = {name: t.clone() for name, t in vector.items()}
        return
    before = recalled(context, key, vector) or tree.zeros_like(vector)
    context.memory[key] = {name: torch.where(finite, t, before[name]) for name, t in vector.items()}


def _kind(tensor: object) -> tuple[object, ...]:
    if not isinstance(tensor, torch.Tensor):
        return ()
    return tensor.shape, tensor.dtype, tensor.device
