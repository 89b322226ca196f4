"""A table whose rows are spread over ranks, all of them in this process: what would be exchanged.

It exists to check the counts of a plan, and that rows with their optimizer state beside them move
as those of one whole table do. No process sends anything to another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from mlo.bench.programs import BenchmarkError

INDEX_BYTES: Final = 8
_MOST_ROWS: Final = 3 * 10**9
"""Above, the product that spreads rows would not fit into 64 bits."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the rows of a table are.

    A row's place is ``p = step · index mod N``, with ``step`` coprime to N and about 0.618 N, so
    that rows that are drawn together lie apart. Rank r holds the places from ``⌈r N / R⌉`` on: on
    another number of ranks each reads ranges again.

    Attributes:
        rows: N.
        ranks: R.
        is_spread: Whether rows are spread; otherwise a row's place is its index.
    """

    rows: int
    ranks: int
    is_spread: bool = True

    def __post_init__(self) -> None:
        """Check the number of rows."""
        if not self.ranks <= self.rows <= _MOST_ROWS:
            raise BenchmarkError(
                f"placement: rows must be at least ranks ({self.ranks}) and at most {_MOST_ROWS}, "
                f"got {self.rows}"
            )

    @property
    def step(self) -> int:
        """The factor that spreads rows."""
        if not self.is_spread:
            return 1
        step = max(1, round(self.rows * (math.sqrt(5) - 1) / 2))
        while math.gcd(step, self.rows) != 1:
            step += 1
        return step

    def places(self, index: Tensor) -> Tensor:
        """Return the place of each row.

        >>> sorted(Placement(rows=10, ranks=3).places(torch.arange(10)).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        """
        return index * self.step % self.rows

    def owners(self, index: Tensor) -> Tensor:
        """Return the rank that holds each row.

        >>> Placement(rows=10, ranks=3, is_spread=False).owners(torch.arange(10)).tolist()
        [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
        """
        return self.places(index) * self.ranks // self.rows

    def start(self, rank: int) -> int:
        """Return the first place of a rank."""
        return -(-rank * self.rows // self.ranks)


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange:
    """Which ranks asked which others for how many rows.

    Attributes:
        asked: `(pairs, 3)`: who asked, whom, for how many different rows; who asks itself too.
        ranks: R.
        width: Numbers in a row.
        itemsize: Bytes of a number.
    """

    asked: Tensor
    ranks: int
    width: int
    itemsize: int = 4

    @property
    def messages(self) -> Tensor:
        """How many other ranks each rank asks, shape ``(ranks,)``."""
        abroad = self._abroad()
        return torch.bincount(abroad[:, 0], minlength=self.ranks)

    @property
    def index_bytes(self) -> Tensor:
        """What each rank sends to say which rows it wants, shape ``(ranks,)``."""
        return INDEX_BYTES * self._sum(0)

    @property
    def row_bytes(self) -> Tensor:
        """What each rank sends of the rows that it holds, shape ``(ranks,)``."""
        return self.itemsize * self.width * self._sum(1)

    @property
    def gradient_bytes(self) -> Tensor:
        """What each rank sends back as gradients of the rows that it got, shape ``(ranks,)``."""
        return self.itemsize * self.width * self._sum(0)

    @property
    def load(self) -> Tensor:
        """How many rows each rank is asked for, by itself too, shape ``(ranks,)``."""
        found = torch.zeros(self.ranks, dtype=torch.int64)
        return found.index_add_(0, self.asked[:, 1], self.asked[:, 2])

    def _abroad(self) -> Tensor:
        return self.asked[self.asked[:, 0] != self.asked[:, 1]]

    def _sum(self, column: int) -> Tensor:
        abroad = self._abroad()
        found = torch.zeros(self.ranks, dtype=torch.int64)
        return found.index_add_(0, abroad[:, column], abroad[:, 2])


def distinct(index: Tensor) -> Tensor:
    """Return the different numbers of a vector, in order.

    >>> distinct(torch.tensor([3, 1, 3]))
    tensor([1, 3])
    """
    ordered = index.sort().values
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


def exchange(placement: Placement, wanted: Sequence[Tensor], width: int) -> Exchange:
    """Return what is exchanged if each rank wants the rows of these indices, each row once.

    >>> placement = Placement(rows=4, ranks=2, is_spread=False)
    >>> found = exchange(placement, [torch.tensor([0, 3, 3]), torch.tensor([3])], width=8)
    >>> found.index_bytes.tolist(), found.row_bytes.tolist(), found.load.tolist()
    ([8, 0], [0, 32], [1, 2])
    """
    pairs: list[Tensor] = []
    for rank, index in enumerate(wanted):
        counts = torch.bincount(placement.owners(distinct(index)), minlength=placement.ranks)
        asked = counts.nonzero().squeeze(1)
        pairs.append(torch.stack([torch.full_like(asked, rank), asked, counts[asked]], dim=1))
    return Exchange(asked=torch.cat(pairs), ranks=placement.ranks, width=width)


class RowShards:
    """Rows spread over ranks, each with its two moments of Adam beside it.

    Rows that nobody asked for do not move, as with `torch.optim.SparseAdam`.

    Args:
        table: The whole, ``(rows, width)``.
        ranks: How many shards.
        rate: Learning rate.
        betas: Decay of both moments.
        epsilon: Added to the root of the second.
    """

    def __init__(
        self,
        table: Tensor,
        ranks: int,
        *,
        rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.placement = Placement(rows=len(table), ranks=ranks)
        self._rate, self._betas, self._epsilon, self._steps = rate, betas, epsilon, 0
        order = self.placement.places(torch.arange(len(table))).argsort()
        edges = [self.placement.start(rank) for rank in range(ranks + 1)]
        self.shards = [table[order[a:b]].clone() for a, b in pairwise(edges)]
        self._moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in self.shards]

    def looked_up(self, wanted: Sequence[Tensor]) -> list[Tensor]:
        """Return the rows that each rank wants, in its order."""
        return [self._rows(index) for index in wanted]

    def update(self, wanted: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Make one step with the sum over ranks of the gradients of the rows that they got."""
        index = torch.cat(list(wanted))
        rows = distinct(index)
        place = torch.searchsorted(rows, index)
        total = torch.zeros(len(rows), gradients[0].shape[1], dtype=gradients[0].dtype)
        total.index_add_(0, place, torch.cat(list(gradients)))
        self._steps += 1
        owners = self.placement.owners(rows)
        slots = self.placement.places(rows)
        for rank in distinct(owners).tolist():
            mine = owners == rank
            self._step(rank, slots[mine] - self.placement.start(rank), total[mine])

    def whole(self) -> Tensor:
        """Return the table."""
        return self._rows(torch.arange(self.placement.rows))

    def _rows(self, index: Tensor) -> Tensor:
        owners, places = self.placement.owners(index), self.placement.places(index)
        found = torch.empty(len(index), self.shards[0].shape[1], dtype=self.shards[0].dtype)
        for rank in distinct(owners).tolist():
            mine = owners == rank
            found[mine] = self.shards[rank][places[mine] - self.placement.start(rank)]
        return found

    def _step(self, rank: int, slots: Tensor, gradient: Tensor) -> None:
        first, second = self._moments[rank]
        for moment, beta, value in (
            (first, self._betas[0], gradient),
            (second, self._betas[1], gradient.square()),
        ):
            moment[slots] += (value - moment[slots]) * (1 - beta)
        corrections = [1 - beta**self._steps for beta in self._betas]
        size = self._rate * math.sqrt(corrections[1]) / corrections[0]
        self.shards[rank][slots] -= size * first[slots] / (second[slots].sqrt() + self._epsilon)


def largest_load(balls: float, bins: int) -> float:
    """Return the expected load of the fullest of `bins` among which `balls` are thrown.

    By Poisson loads that do not know of each other: ``Σ_k 1 - P(load ≤ k)^bins``.

    >>> round(largest_load(4096 * 256, 4096) / 256, 2)
    1.23
    """
    mean = balls / bins
    top = int(mean + 12 * math.sqrt(mean) + 40)
    loads = torch.arange(top, dtype=torch.float64)
    below = torch.special.gammaincc(loads + 1, torch.tensor(mean, dtype=torch.float64))
    return float((1 - below**bins).sum())
