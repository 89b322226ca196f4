"""Collective operations of a process group: counted, and with failures told by rank."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mlo.parallel.failure import Guard, Unwatched
from mlo.parallel.traffic import Traffic, Volume


class Collectives:
    """The operations that ranks do together; all must call the same ones in the same order.

    Args:
        group: The process group; None for all processes.
        device: Where this rank's tensors are.
        guard: Runs the operations; by default nothing is known of ranks that have gone.

    Attributes:
        device: Where this rank's tensors are.
        guard: Runs the operations.
        rank: This process, counted from 0.
        size: How many there are.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        device: torch.device,
        guard: Guard | None = None,
    ) -> None:
        self._group = group
        self.device = device
        self.guard = guard or Unwatched()
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self._volumes: dict[str, Volume] = {}

    @property
    def traffic(self) -> Traffic:
        """What has been exchanged so far, by kind."""
        return Traffic(kinds=dict(self._volumes))

    def sum_(self, tensor: Tensor, kind: str) -> None:
        """Set a tensor to its sum over ranks."""
        self.begin_sum_(tensor, kind)()

    def begin_sum_(self, tensor: Tensor, kind: str) -> Callable[[], None]:
        """Begin to set a tensor to its sum over ranks; what is returned waits for the end.

        On an accelerator the wait is the device's, not this process's.
        """
        self._count(kind, tensor)
        work = self.guard.run(
            functools.partial(dist.all_reduce, tensor, group=self._group, async_op=True)
        )

        def wait() -> None:
            if work is not None:
                self.guard.run(work.wait)

        return wait

    def largest_(self, tensor: Tensor, kind: str) -> None:
        """Set a tensor to its largest entries over ranks."""
        self._count(kind, tensor)
        self.guard.run(
            functools.partial(dist.all_reduce, tensor, dist.ReduceOp.MAX, group=self._group)
        )

    def gathered(self, tensor: Tensor, kind: str) -> list[Tensor]:
        """Return the tensors of all ranks, which must have one shape."""
        self._count(kind, tensor)
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        self.guard.run(functools.partial(dist.all_gather, found, tensor, group=self._group))
        return found

    def spread_(self, tensor: Tensor, kind: str) -> None:
        """Set a tensor to that of rank 0."""
        self._count(kind, tensor)
        self.guard.run(functools.partial(dist.broadcast, tensor, group=self._group, group_src=0))

    def objects(self, value: Any, kind: str) -> list[Any]:
        """Return the values of all ranks: anything that can be pickled, no tensor on a device."""
        found: list[Any] = [None] * self.size
        self.guard.run(functools.partial(dist.all_gather_object, found, value, group=self._group))
        self._add(kind, Volume(count=1))
        return found

    def _count(self, kind: str, tensor: Tensor) -> None:
        self._add(kind, Volume(count=1, bytes=tensor.numel() * tensor.element_size()))

    def _add(self, kind: str, more: Volume) -> None:
        before = self._volumes.get(kind, Volume())
        self._volumes[kind] = Volume(
            count=before.count + more.count, bytes=before.bytes + more.bytes
        )
