"""Learning rates of a whole round, computed before it runs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class StagedRates:
    """Steps the schedulers of a round in advance and lets the round take up rate after rate.

    Schedulers are Python and run once a round on the host; the updates of a captured round are not
    Python any more. So every update that a scheduler follows gets a tensor of its own with the
    rates after it, from which the round copies them into the live ones.

    Args:
        schedule: The problems in the order of their updates.
        optimizers: By problem; the learning rates of those with a scheduler are tensors.
        schedulers: By problem.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> rate = torch.tensor(1.0)
    >>> optimizer = torch.optim.SGD([weight], lr=rate)
    >>> halve = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    >>> optimizer.step()
    >>> staged = StagedRates(["p", "p"], {"p": optimizer}, {"p": halve})
    >>> staged.stage()
    >>> taken = [optimizer.param_groups[0]["lr"].item()]
    >>> for position in range(2):
    ...     staged.advance(position)
    ...     taken.append(optimizer.param_groups[0]["lr"].item())
    >>> taken
    [1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        schedule: Sequence[str],
        optimizers: Mapping[str, Optimizer],
        schedulers: Mapping[str, LRScheduler],
    ) -> None:
        self._scheduled = [(p, n) for p, n in enumerate(schedule) if n in schedulers]
        self._schedulers = schedulers
        self._live = {n: _rates(optimizers[n]) for n in schedulers}
        self._before = {n: _copies(rates) for n, rates in self._live.items()}
        self._after = {position: _copies(self._live[name]) for position, name in self._scheduled}
        self._names = dict(self._scheduled)

    @torch.no_grad()
    def stage(self) -> None:
        """Step every scheduler as often as the round does; the live rates stay as they are."""
        for name, rates in self._live.items():
            torch._foreach_copy_(self._before[name], rates)
        for position, name in self._scheduled:
            self._schedulers[name].step()
            torch._foreach_copy_(self._after[position], self._live[name])
        for name, rates in self._live.items():
            torch._foreach_copy_(rates, self._before[name])

    @torch.no_grad()
    def advance(self, position: int) -> None:
        """Set the live rates to those after the update at this position of the schedule."""
        if position in self._names:
            torch._foreach_copy_(self._live[self._names[position]], self._after[position])


def _rates(optimizer: Optimizer) -> list[Tensor]:
    return [group["lr"] for group in optimizer.param_groups]


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]
