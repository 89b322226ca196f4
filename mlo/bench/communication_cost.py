"""What collective operations cost: a latency for each step, and bytes over bandwidth.

Every number of `Machine` is an assumption with a source. Nothing here has been measured by us.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

MICROSECOND: Final = 1e-6
GIGABYTE: Final = 1e9


@dataclass(frozen=True, kw_only=True)
class Link:
    """What one rank sends with.

    Attributes:
        bandwidth: Bytes a second, in one direction.
        latency: Seconds of a step, however small.
    """

    bandwidth: float
    latency: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A cluster of equal nodes, each rank with a network card of its own.

    Attributes:
        flops: Operations that a rank gets done in a second. By default 40% of the 989e12 of an
            NVIDIA H100 in bfloat16 (data sheet), as reported for large language models (Grattafiori
            et al., 2024, arXiv 2407.21783, 38% to 43%). Small networks reach less, which hides
            communication better.
        node: Ranks of a node.
        inside: Between ranks of a node: NVLink 4, 900 GB/s in both directions (data sheet).
        between: Between nodes: 400 Gbit/s a rank (Grattafiori et al., 2024). Latencies are those
            that NCCL's own model has for a ring in its Simple protocol (`src/graph/tuning.cc`, at
            commit 01afd20; they change from version to version).
        tree_latency: Seconds of a step of a tree between nodes, from the same file, protocol LL128.
        tree_share: Share of the bandwidth that a tree reaches, by the same file.
        slower: Standard deviation of the time of a piece of computation between two reductions, as
            a share of it; ranks wait for the slowest.
    """

    flops: float = 0.4 * 989e12
    node: int = 8
    inside: Link = Link(bandwidth=450 * GIGABYTE, latency=3.4 * MICROSECOND)
    between: Link = Link(bandwidth=50 * GIGABYTE, latency=9.6 * MICROSECOND)
    tree_latency: float = 8.5 * MICROSECOND
    tree_share: float = 0.9
    slower: float = 0.0


AllReduce = Callable[[float, int, Machine], float]
"""``(bytes, ranks, machine) -> seconds``."""


def ring(size: float, ranks: int, link: Link) -> float:
    """Return ``2 (R - 1) / R · bytes / bandwidth + 2 (R - 1) · latency``.

    The bytes are the least that any algorithm sends. Source: Patarasuk and Yuan, 2009, Journal of
    Parallel and Distributed Computing 69.

    >>> ring(8e9, 2, Link(bandwidth=1e9, latency=0.5))
    9.0
    """
    steps = 2 * (ranks - 1)
    return steps / ranks * size / link.bandwidth + steps * link.latency


def tree(size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Return ``2 bytes / bandwidth + 2 ⌈log₂ R⌉ · latency``: down and up two trees at once.

    Source: Sanders, Speck and Träff, 2009, Parallel Computing 35.

    >>> tree(1e9, 8, 1e9, 0.5)
    5.0
    """
    if ranks == 1:
        return 0.0
    return 2 * size / bandwidth + 2 * math.ceil(math.log2(ranks)) * latency


def flat_ring(size: float, ranks: int, machine: Machine) -> float:
    """Return the time of rings through all ranks, one for each network card of a node.

    >>> flat_ring(0, 1, Machine())
    0.0
    """
    nodes = math.ceil(ranks / machine.node)
    if nodes == 1:
        return ring(size, ranks, machine.inside)
    steps = 2 * (ranks - 1)
    crossing = 2 * (nodes - 1)
    latency = crossing * machine.between.latency + (steps - crossing) * machine.inside.latency
    return steps / ranks * size / (machine.node * machine.between.bandwidth) + latency


def by_node(size: float, ranks: int, machine: Machine) -> float:
    """Return the time of a reduction within nodes, then between, then back within.

    Each rank of a node reduces its share of the bytes with those of the other nodes that hold the
    same share, by a ring or a tree, whichever is faster.

    >>> machine = Machine()
    >>> by_node(1e9, 8, machine) == ring(1e9, 8, machine.inside)
    True
    """
    nodes = math.ceil(ranks / machine.node)
    if nodes == 1:
        return ring(size, ranks, machine.inside)
    share = size / machine.node
    bandwidth = machine.tree_share * machine.between.bandwidth
    across = min(
        ring(share, nodes, machine.between), tree(share, nodes, bandwidth, machine.tree_latency)
    )
    return ring(size, machine.node, machine.inside) + across


def by_node_with_rings(size: float, ranks: int, machine: Machine) -> float:
    """Return the time of `by_node` with rings only.

    >>> machine = Machine()
    >>> by_node_with_rings(1e3, 4096, machine) > 10 * by_node(1e3, 4096, machine)
    True
    """
    nodes = math.ceil(ranks / machine.node)
    within = ring(size, min(ranks, machine.node), machine.inside)
    return within + ring(size / machine.node, nodes, machine.between)


def sharded_bytes(size: float, *, evaluations: int, gradients: int, ranks: int) -> float:
    """Return what a rank sends where parameters are sharded: all-gathers, then reduce-scatters.

    An evaluation gathers all parameters for its forward and again for its backward pass, and only a
    gradient in the parameters themselves is scattered, ``(R - 1) / R · bytes`` each. A plain update
    sends 3, where a ring all-reduce sends 2.

    Source: Rajbhandari et al., 2020, arXiv 1910.02054; Zhao et al., 2023, arXiv 2304.11277.

    >>> sharded_bytes(8.0, evaluations=1, gradients=1, ranks=4)
    18.0
    """
    return (ranks - 1) / ranks * size * (2 * evaluations + gradients)


def slowest(ranks: int, deviation: float) -> float:
    """Return the expected time of the slowest of normal times with mean 1.

    >>> slowest(1, 0.1), round(slowest(2, 0.1), 4)
    (1.0, 1.0564)
    """
    if ranks == 1 or deviation == 0:
        return 1.0
    normal, steps, edge = NormalDist(), 4000, 8.0
    width = 2 * edge / steps
    # E[max] = ∫ x d(Φ(x)^R), summed over the middles of the steps.
    cut = [normal.cdf(-edge + k * width) ** ranks for k in range(steps + 1)]
    mean = sum((cut[k + 1] - cut[k]) * (-edge + (k + 0.5) * width) for k in range(steps))
    return 1.0 + deviation * mean
