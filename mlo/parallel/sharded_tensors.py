"""Tensors of which each process holds a part, as `fully_shard` makes of parameters.

A DTensor stands for the whole tensor, the same on every process. What is entrywise is done on the
parts; torch would do a norm or an inner product on them too, and leave it at that: ``float`` of a
DTensor's norm is the norm of the part. So such numbers are put together here.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: object) -> TypeGuard[Any]:
    """Return whether a tensor is a DTensor.

    >>> is_sharded(torch.ones(2))
    False
    """
    # Importing it takes a second; who has such a tensor has paid that already.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def any_sharded(tensors: Iterable[object]) -> bool:
    """Return whether there is a DTensor among them.

    >>> any_sharded([torch.ones(2)])
    False
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(isinstance(t, module.DTensor) for t in tensors)


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """Return the part that this process holds, in the same memory; an ordinary tensor itself.

    >>> local(torch.ones(2))
    tensor([1., 1.])
    """
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def locals_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the part of each that this process holds; see `local`."""
    found = list(tensors)
    return [local(tensor) for tensor in found] if any_sharded(found) else found


def with_part(tensor: Tensor, part: Tensor) -> Tensor:
    """Return a tensor laid out as `tensor` of which this process holds `part`.

    >>> with_part(torch.ones(2), torch.zeros(2))
    tensor([0., 0.])
    """
    if not is_sharded(tensor) or is_sharded(part):
        return part
    made: Tensor = type(tensor).from_local(
        part,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )
    return made


def of_all_parts(numbers: Sequence[Tensor], tensors: Iterable[Tensor]) -> Tensor:
    """Return one number for every part of every tensor, those that others hold included.

    All processes get the same numbers in the same order, so that they decide alike. One gathering
    for all tensors of one mesh.

    Args:
        numbers: 0-dim, one for the part of each tensor that this process holds.
        tensors: What they are numbers of.

    Returns:
        A 1-dim tensor.

    >>> of_all_parts([torch.tensor(3.0), torch.tensor(4.0)], [torch.ones(1), torch.ones(2)])
    tensor([3., 4.])
    """
    tensors = list(tensors)
    if not any_sharded(tensors):
        return torch.stack(list(numbers))
    own: list[Tensor] = []
    apart: dict[Any, list[Tensor]] = {}
    for number, tensor in zip(numbers, tensors, strict=True):
        if is_sharded(tensor):
            apart.setdefault((tensor.device_mesh, sharded_dims(tensor)), []).append(number)
        else:
            own.append(number)
    found = [torch.stack(own)] if own else []
    for (mesh, dims), parts in apart.items():
        gathered = torch.stack(parts)
        for dim in dims:
            group = mesh.get_group(dim)
            each = [torch.empty_like(gathered) for _ in range(dist.get_world_size(group))]
            dist.all_gather(each, gathered, group=group)
            gathered = torch.cat(each)
        found.append(gathered)
    return torch.cat(found)


def sharded_dims(tensor: Any) -> tuple[int, ...]:
    """Return the dimensions of its mesh over which a tensor is spread."""
    return tuple(dim for dim, place in enumerate(tensor.placements) if place.is_shard())
