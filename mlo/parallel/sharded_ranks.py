"""Ranks of a program in which modules are sharded by `fully_shard`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlo.errors import ProblemError
from mlo.parallel.sharded import Sharded
from mlo.parallel.sharded_tensors import is_sharded, local
from mlo.ranks import Ranks
from mlo.separable import LossValue
from mlo.tree import Params

NO_OPTIONS: Mapping[str, object] = MappingProxyType({})


class ShardedRanks:
    """Ranks that know that a DTensor is one tensor, alike on all of them.

    So its mean over ranks is itself, and `fully_shard` has already taken the mean of the gradients
    that come from it.

    Args:
        ranks: What does the rest.
        sharded: The sharded parameters of all modules.
    """

    def __init__(self, ranks: Ranks, sharded: Sharded) -> None:
        self._ranks = ranks
        self._sharded = sharded

    @property
    def rank(self) -> int:
        """This process, counted from 0."""
        return self._ranks.rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self._ranks.size

    def slice(self, batch: Any, /) -> tuple[Any, float]:
        """Return this rank's rows of a batch that all ranks hold, and what multiplies its loss."""
        return self._ranks.slice(batch)

    def gradients(
        self, loss: Tensor, inputs: Sequence[Tensor], /
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the means over ranks of the loss, detached, and of its gradient.

        What is not sharded is reduced after the backward pass: in between it could come before a
        gathering on one rank, and after it on another.
        """
        found: list[Tensor | None] = [None] * len(inputs)
        if loss.requires_grad:
            found = self._sharded.gradients(loss, inputs)
        value, *means = self.mean([loss.detach(), *found], like=[loss.detach(), *inputs])
        assert value is not None
        return value, means

    def mean(
        self, tensors: Sequence[Tensor | None], /, like: Sequence[Tensor] | None = None
    ) -> list[Tensor | None]:
        """Return means over ranks; a DTensor is its own, and None on all ranks where it is None."""
        known = tensors if like is None else like
        positions = [
            i
            for i, pair in enumerate(zip(tensors, known, strict=True))
            if not any(map(is_sharded, pair))
        ]
        found = list(tensors)
        if positions:
            means = self._ranks.mean(
                [tensors[i] for i in positions],
                like=None if like is None else [like[i] for i in positions],
            )
            for position, mean in zip(positions, means, strict=True):
                found[position] = mean
        return found

    def everywhere(
        self,
        loss: Callable[[Params], LossValue],
        params: Params,
        /,
        reads: Iterable[Tensor] = (),
    ) -> LossValue:
        """Return this rank's ``loss(params)``, whose derivatives in `params` are the mean's.

        Those in DTensors are so anyway, and only first ones can be taken.
        """
        others = {name: tensor for name, tensor in params.items() if not is_sharded(tensor)}
        if not others:
            return loss(params)
        read = [tensor for tensor in reads if not is_sharded(tensor)]
        return self._ranks.everywhere(lambda copies: loss({**params, **copies}), others, reads=read)

    def broadcast(self, module: nn.Module, /) -> None:
        """Give what is not sharded of a module the values that it has on rank 0.

        Of a sharded parameter each rank holds its own part, so there is nothing to be taken over
        but between ranks that hold the same one.
        """
        for parameter in module.parameters():
            if is_sharded(parameter):
                _share_copies(parameter)
        self._ranks.broadcast(_Unsharded(module))

    def gathered(self, value: Any, /) -> list[Any]:
        """Return the value of every rank, by rank: plain data, no tensors on a device."""
        return self._ranks.gathered(value)


class _Unsharded(nn.Module):
    """The parameters and buffers of a module that are ordinary tensors, under the same names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # register_parameter would refuse the dots in their names.
        self._parameters.update(
            {name: p for name, p in module.named_parameters() if not is_sharded(p)}
        )
        self._buffers.update(dict(module.named_buffers()))


def with_sharded(
    ranks: Ranks | None, modules: Iterable[nn.Module], *, options: Mapping[str, object] = NO_OPTIONS
) -> Ranks | None:
    """Return the ranks for a program with these modules: the same, if none is sharded.

    Args:
        ranks: The processes that share each batch.
        modules: Those of all problems.
        options: Of the engine, by name, that are meant for whole parameters.

    Raises:
        ProblemError: If a module is sharded and there are no ranks, it is spread over others than
            these, or one of the options is set.
    """
    all_modules = list(modules)
    sharded = Sharded(all_modules)
    if not sharded:
        return ranks
    if ranks is None:
        raise ProblemError(
            "a module is sharded by fully_shard over several processes, but the engine got "
            "ranks=None; give it the ranks that mlo.parallel.launch.joined() yields"
        )
    for option, chosen in options.items():
        if chosen:
            raise ProblemError(
                f"{option}={chosen!r} does not go with modules sharded by fully_shard; leave it out"
            )
    for module in all_modules:
        for name, parameter in module.named_parameters():
            if is_sharded(parameter) and parameter.device_mesh.size() != ranks.size:
                raise ProblemError(
                    f"parameter {name!r} is sharded over {parameter.device_mesh.size()} processes, "
                    f"expected all {ranks.size} ranks"
                )
    return ShardedRanks(ranks, sharded)


@torch.no_grad()
def _share_copies(parameter: Any) -> None:
    """Give a part that several ranks hold the value that it has on the first of them."""
    for dim, placement in enumerate(parameter.placements):
        if placement.is_replicate():
            dist.broadcast(
                local(parameter), group=parameter.device_mesh.get_group(dim), group_src=0
            )
