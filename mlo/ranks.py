"""What data-parallel training asks of the processes that share it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from mlo.separable import LossValue
from mlo.tree import Params


class Ranks(Protocol):
    """The processes that each hold all parameters and a slice of every batch.

    The loss of a problem is the mean over ranks, ``g = mean_r g_r``, wherever rows are spread
    evenly; `slice` returns the factor that makes it so where they are not. Every method but
    `slice` is collective: all ranks call it, in the same order.
    """

    @property
    def rank(self) -> int:
        """This process, counted from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    def slice(self, batch: Any, /) -> tuple[Any, float]:
        """Return this rank's rows of a batch that all ranks hold, and what multiplies its loss.

        The factor is ``size * rows here / rows in all``.
        """
        ...

    def gradients(
        self, loss: Tensor, inputs: Sequence[Tensor], /
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the means over ranks of the loss, detached, and of its gradient.

        They are reduced while the backward pass goes on.
        """
        ...

    def mean(
        self, tensors: Sequence[Tensor | None], /, like: Sequence[Tensor] | None = None
    ) -> list[Tensor | None]:
        """Return means over ranks, None counting as zero; None where it is None on every rank.

        Where tensors of the same shapes are given for what may be None, ranks need not first tell
        each other what they have.
        """
        ...

    def everywhere(
        self,
        loss: Callable[[Params], LossValue],
        params: Params,
        /,
        reads: Iterable[Tensor] = (),
    ) -> LossValue:
        """Return this rank's ``loss(params)``, whose derivatives in `params` are the mean's.

        That holds for derivatives of any order. Its value, and its derivatives in anything else,
        stay this rank's own; `reads` is what else it may be differentiated in, by all ranks
        together, also where the loss of one depends on none of it.
        """
        ...

    def broadcast(self, module: nn.Module, /) -> None:
        """Give the parameters and buffers of a module the values that they have on rank 0."""
        ...

    def gathered(self, value: Any, /) -> list[Any]:
        """Return the value of every rank, by rank: plain data, no tensors on a device."""
        ...
