"""Checkpoints of sharded tensors, independent of how many processes hold them.

A checkpoint holds whole tensors. Each process cuts its part out of them again.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mlo.errors import CheckpointError
from mlo.parallel.sharded_tensors import is_sharded, local, sharded_dims, with_part


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor, on every process; all must call it together.

    >>> whole(torch.ones(2))
    tensor([1., 1.])
    """
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor laid out as `like` is, without talking to other processes.

    The opposite of `whole`, for what an optimizer remembers of a parameter. A 0-dim value, such as
    a count of steps, is alike on all processes and stays as it is.

    Args:
        value: The whole tensor, the same on every process.
        like: The parameter.

    Raises:
        CheckpointError: If `like` is sharded and `value` has another shape.

    >>> part_of(torch.ones(2), torch.zeros(2))
    tensor([1., 1.])
    """
    if not is_sharded(like) or value.dim() == 0:
        return value
    if value.shape != like.shape:
        raise CheckpointError(
            f"a tensor of shape {tuple(value.shape)} cannot be spread over processes as its "
            f"parameter of shape {tuple(like.shape)} is; use an optimizer whose states have the "
            "shapes of its parameters, such as SGD or Adam"
        )
    part = value.to(like.device)
    for dim in sharded_dims(like):
        placement = like.placements[dim].dim
        mesh = like.device_mesh
        pieces = part.tensor_split(_bounds(part.shape[placement], mesh.size(dim)), dim=placement)
        part = pieces[mesh.get_local_rank(dim)]
    # A view would keep the whole tensor.
    return with_part(like, part.clone(memory_format=torch.contiguous_format))


@torch.no_grad()
def put(into: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one of which this process may hold a part.

    >>> target = torch.zeros(2)
    >>> put(target, torch.ones(2))
    >>> target
    tensor([1., 1.])
    """
    local(into).copy_(local(part_of(value, into)))


def whole_state(state: Any) -> Any:
    """Return the same dictionaries, lists and tuples with every tensor whole; see `whole`.

    >>> whole_state({"state": {0: {"step": torch.tensor(3.0)}}, "lr": 0.1})
    {'state': {0: {'step': tensor(3.)}}, 'lr': 0.1}
    """
    if isinstance(state, Tensor):
        return whole(state)
    if isinstance(state, dict):
        return {key: whole_state(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(whole_state, state))
    return state


def parts_of_state(
    optimizer: Optimizer, state: Mapping[int, Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Return what an optimizer remembers, from whole tensors, laid out as its parameters are.

    Args:
        optimizer: Says which parameter each number stands for.
        state: As under "state" in ``optimizer.state_dict()``.

    Raises:
        CheckpointError: If a parameter is sharded and what is kept of it has another shape.

    >>> parameter = torch.nn.Parameter(torch.ones(2))
    >>> parts_of_state(torch.optim.SGD([parameter]), {0: {"momentum_buffer": torch.ones(2)}})
    {0: {'momentum_buffer': tensor([1., 1.])}}
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        number: {
            key: part_of(value, parameters[number]) if isinstance(value, Tensor) else value
            for key, value in kept.items()
        }
        for number, kept in state.items()
    }


def _bounds(length: int, count: int) -> list[int]:
    """Return where pieces end as `torch.chunk` cuts them, the last ones shorter or empty.

    >>> _bounds(5, 4)
    [2, 4, 5]
    """
    step = -(-length // count)
    return [min(length, step * index) for index in range(1, count)]
