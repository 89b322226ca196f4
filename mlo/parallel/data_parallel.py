"""Ranks over a process group: each holds all parameters and takes a slice of every batch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlo.errors import ProblemError
from mlo.parallel import copy_and_mean, rows
from mlo.parallel.bucket import by_dtype, spec_of
from mlo.parallel.collectives import Collectives
from mlo.parallel.failure import Guard, ParallelError
from mlo.parallel.overlapped import BUCKET_BYTES, OverlappedGradients
from mlo.parallel.reduction import Reduction
from mlo.parallel.traffic import Traffic
from mlo.separable import LossValue, Weighted
from mlo.tree import Params

Value = TypeVar("Value")


class DataParallel:
    """The processes of a group as `mlo.ranks.Ranks`; see there for what each method means.

    Every rank holds all parameters. All methods but `slice` are collective: every rank must call
    them, in the same order. Each begins with the name of what it counts as in `traffic`.

    Args:
        group: The process group; None for all processes, which `torch.distributed` must know of.
        device: Where tensors are; only a rank that has none at all to put in must be told.
        bucket_bytes: How much of a gradient is reduced together, at least.
        guard: Runs operations, such as a `mlo.parallel.watch.Watch`.

    Attributes:
        device: Where this rank's tensors are.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        device: torch.device | None = None,
        bucket_bytes: int = BUCKET_BYTES,
        guard: Guard | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self._collectives = Collectives(group, device=self.device, guard=guard)
        self._mean = Reduction(self._collectives, "means")
        self._gradients = OverlappedGradients(self._collectives, bucket_bytes=bucket_bytes)

    @property
    def rank(self) -> int:
        """This process, counted from 0."""
        return self._collectives.rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self._collectives.size

    @property
    def where(self) -> str:
        """How the message ends with which this rank goes when another has died or failed.

        The loop sets it, to such as ``"in round 37; resume with ..."``.
        """
        return self._collectives.guard.where

    @where.setter
    def where(self, where: str) -> None:
        """Set it."""
        self._collectives.guard.where = where

    @property
    def traffic(self) -> Traffic:
        """What this rank has taken part in so far.

        Kinds are ``"gradients"`` and ``"means"``; ``"copies"``, reductions within the derivatives
        of `everywhere`; ``"descriptions"``, of `mean` without `like`; ``"plans"``, one for each
        list of gradients that is new; ``"broadcasts"``; ``"objects"``.
        """
        return self._collectives.traffic

    def slice(self, batch: Any, /) -> tuple[Any, float]:
        """Return this rank's rows of a batch that all ranks hold, and what multiplies its loss.

        Raises:
            BatchError: If there are fewer rows than ranks, tensors differ in rows, or there is
                none.
        """
        return rows.sliced(batch, self.rank, self.size)

    def gradients(
        self, loss: Tensor, inputs: Sequence[Tensor], /
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the means over ranks of the loss, detached, and of its gradient.

        They are reduced while the backward pass goes on. The loss need not depend on any input on
        this rank; a gradient is None only where it is None on every rank, and sparse where no rank
        has it dense.

        Raises:
            ParallelError: If another rank has died or failed.
        """
        return self._gradients(loss, inputs)

    def mean(
        self, tensors: Sequence[Tensor | None], /, like: Sequence[Tensor] | None = None
    ) -> list[Tensor | None]:
        """Return means over ranks, None counting as zero; None where it is None on every rank.

        One reduction for each dtype; sparse tensors, where no rank has them dense, are gathered and
        stay sparse.

        Args:
            tensors: Dense or sparse COO tensors.
            like: Tensors of the same shapes, dtypes and devices, where there is None too. Without
                them ranks must first tell each other what they have, on the host.

        Raises:
            ParallelError: If another rank has died or failed.
        """
        return self._mean.mean(tensors, like)

    def everywhere(
        self,
        loss: Callable[[Params], LossValue],
        params: Params,
        /,
        reads: Iterable[Tensor] = (),
    ) -> LossValue:
        """Return this rank's ``loss(params)``, whose derivatives in `params` are the mean's.

        That holds for derivatives of any order and in any order, one reduction for each backward
        pass, and whether or not this rank's loss depends on `params` at all. Its value, and its
        derivatives in anything else, stay this rank's own.

        Args:
            loss: Returns a 0-dim tensor or `mlo.weighted`.
            params: Alike on all ranks.
            reads: All else in which the loss, or what is made of its gradient, may be
                differentiated: ranks must take part in that even where their loss depends on none
                of it.
        """
        token, copies = copy_and_mean.copied(self._collectives, list(params.values()), reads)
        value = loss(dict(zip(params, copies, strict=True)))
        return _with_losses(value, lambda losses: copy_and_mean.tied(token, losses))

    def averaged(
        self, loss: Callable[[Params], Tensor], params: Params, /, reads: Iterable[Tensor] = ()
    ) -> Tensor:
        """Return ``mean_r loss_r(params)``, as every rank has it; see `everywhere`."""
        token, copies = copy_and_mean.copied(self._collectives, list(params.values()), reads)
        value = loss(dict(zip(params, copies, strict=True)))
        return copy_and_mean.averaged(self._collectives, token, value)

    @torch.no_grad()
    def broadcast(self, module: nn.Module, /) -> None:
        """Give the parameters and buffers of a module the values that they have on rank 0.

        Raises:
            ProblemError: If the module is another one on some rank; nothing has been changed then.
        """
        state = _state(module)
        self._check_alike(state)
        for part in by_dtype({i: spec_of(t) for i, t in enumerate(state.values())}):
            tensors = [list(state.values())[index] for index in part]
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            self._collectives.spread_(flat, "broadcasts")
            for tensor, piece in zip(
                tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True
            ):
                tensor.copy_(piece.view(tensor.shape))

    @torch.no_grad()
    def buffers(self, module: nn.Module, /) -> None:
        """Give the floating buffers of a module, such as running statistics, their mean."""
        found = [b for b in module.buffers() if b.is_floating_point() or b.is_complex()]
        for buffer, mean in zip(found, self.mean(found, like=found), strict=True):
            assert mean is not None
            buffer.copy_(mean)

    def gathered(self, value: Value, /) -> list[Value]:
        """Return the value of every rank, by rank: plain data, no tensors on an accelerator."""
        return self._collectives.objects(value, "objects")

    def agree(self, value: Value, what: str) -> Value:
        """Return `value` if it is the same on all ranks.

        Raises:
            ParallelError: If it is not.
        """
        values = self.gathered(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ParallelError(
                    f"ranks must agree on {what}, got {values[0]!r} on rank 0 and {other!r} on "
                    f"rank {rank}",
                    speaks=self.rank == 0,
                )
        return value

    def _check_alike(self, state: dict[str, Tensor]) -> None:
        own = {name: _described(tensor) for name, tensor in state.items()}
        every = self.gathered(own)
        for rank, other in enumerate(every):
            if other == every[0]:
                continue
            name = next(
                name
                for name in (*every[0], *other)
                if every[0].get(name, "absent") != other.get(name, "absent")
            )
            raise ProblemError(
                f"{name!r} must be alike on all ranks, got {every[0].get(name, 'absent')} on "
                f"rank 0 and {other.get(name, 'absent')} on rank {rank}; build the same module on "
                "each"
            )


def _with_losses(value: LossValue, function: Callable[[Tensor], Tensor]) -> LossValue:
    if isinstance(value, Weighted):
        return replace(value, losses=function(value.losses))
    return function(value)


def _state(module: nn.Module) -> dict[str, Tensor]:
    # Buffers that are not persistent too, which state_dict() leaves out.
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _described(tensor: Tensor) -> str:
    stride = spec_of(tensor).stride
    return f"{tensor.dtype} of shape {tuple(tensor.shape)} and strides {stride}"
