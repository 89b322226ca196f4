"""What a round exchanges for a table of assignments whose rows are spread over ranks.

Exchanges are counted in a simulation of all ranks in this process; times are computed.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.communication_cost import Machine
from mlo.bench.communication_memory import GROUPS
from mlo.bench.communication_shards import Placement, exchange, largest_load

SLICE: Final = 256
"""Rows that one rank's slice of a batch names."""
TABLE: Final = 10**9
"""Rows of the table, which is not built: only where its rows would be."""


def gathered_bytes(ranks: int, slice_rows: int = SLICE, width: int = GROUPS) -> int:
    """Return what a rank receives where sparse gradients are gathered: rows of all other ranks.

    >>> gathered_bytes(2, 10, 8)
    400
    """
    return (ranks - 1) * slice_rows * (8 + 4 * width)


def run(settings: Settings) -> Result:
    """Count exchanges for more and more ranks."""
    ranks = (8, 64) if settings.quick else (8, 64, 512, 4096)
    rows = [row for size in ranks for row in _exchanges(size, settings.seed)]
    return Result(
        title="A round's exchanges for a table of assignments with 1e9 rows",
        rows=rows,
        notes=NOTES,
    )


def _exchanges(ranks: int, seed: int) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(TABLE, (SLICE,), generator=generator) for _ in range(ranks)]
    neighbours = [torch.arange(SLICE) + rank * SLICE for rank in range(ranks)]
    spread = Placement(rows=TABLE, ranks=ranks)
    ranges = Placement(rows=TABLE, ranks=ranks, is_spread=False)
    own = [ranges.start(rank) + torch.arange(SLICE) for rank in range(ranks)]
    gathered: Row = {
        "way": "every rank has all rows, gradients gathered (today)",
        "ranks": ranks,
        "received (kB)": gathered_bytes(ranks) / 1e3,
        "messages": ranks - 1,
        "network (ms)": 1e3 * _gather_seconds(ranks),
    }
    return [
        gathered,
        _sharded("rows spread, batch at random", spread, drawn),
        _sharded("rows spread, batch of neighbours", spread, neighbours),
        _sharded("rows in ranges, batch of neighbours", ranges, neighbours),
        _sharded("rows where their examples are read", ranges, own),
    ]


def _sharded(way: str, placement: Placement, wanted: Sequence[Tensor]) -> Row:
    found = exchange(placement, wanted, GROUPS)
    sent = found.index_bytes + found.row_bytes + found.gradient_bytes
    largest = float(sent.max())
    return {
        "way": way,
        "ranks": placement.ranks,
        "received (kB)": float(sent.double().mean()) / 1e3,
        "messages": float(found.messages.double().mean()),
        "network (ms)": 1e3 * _exchange_seconds(placement.ranks, largest) if largest else 0.0,
        "fullest / mean": int(found.load.max()) / SLICE,
        "expected at random": largest_load(SLICE * placement.ranks, placement.ranks) / SLICE,
    }


def _exchange_seconds(ranks: int, largest: float) -> float:
    """Return the time of three exchanges in two hops: within a node, then between nodes.

    The messages of a hop are sent one after the other, each with a latency of its own, so this is
    an upper bound.
    """
    machine = Machine()
    nodes = math.ceil(ranks / machine.node)
    hops = (min(ranks, machine.node) - 1) * machine.inside.latency
    hops += (nodes - 1) * machine.between.latency
    return 3 * hops + largest / machine.inside.bandwidth + largest / machine.between.bandwidth


def _gather_seconds(ranks: int) -> float:
    """Return the time of a ring that gathers all rows, through the cards of a node at once."""
    machine = Machine()
    nodes = math.ceil(ranks / machine.node)
    bandwidth = machine.inside.bandwidth
    if nodes > 1:
        bandwidth = min(bandwidth, machine.node * machine.between.bandwidth)
    hops = (ranks - nodes) * machine.inside.latency + (nodes - 1) * machine.between.latency
    return gathered_bytes(ranks) / bandwidth + hops


NOTES: Final = (
    f"K = {GROUPS}. A rank's slice names {SLICE} rows, looked up once and updated once a round: "
    "8 bytes for an index, 32 for a row, 32 for its gradient. Received is the mean over ranks.",
    "COUNTED: bytes, messages and loads, for all ranks in one process; the table itself is not "
    "built. SIMULATED: network times, in two hops, messages one after the other, latencies as in "
    "communication_scaling.",
    "Where rows lie with their examples nothing is exchanged: each rank reads its own examples.",
)

CASE = Case(
    name="communication_rows",
    summary="exchanges of a round for a table of assignments whose rows are spread over ranks",
    run=run,
)
