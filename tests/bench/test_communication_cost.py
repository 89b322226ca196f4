"""The cost of collective operations: closed forms, limits, laws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo.bench.communication_cost import (
    Link,
    Machine,
    by_node,
    by_node_with_rings,
    flat_ring,
    ring,
    sharded_bytes,
    slowest,
    tree,
)

MACHINE = Machine()
ranks = st.sampled_from([2**k for k in range(13)])
sizes = st.floats(0, 1e11)


def test_a_ring_by_hand():
    """Four ranks, 8 bytes, 2 bytes a second, one second a step: 6 steps of 2 bytes each."""
    assert ring(8, 4, Link(bandwidth=2, latency=1)) == 6 * (2 / 2) + 6


@given(sizes)
def test_one_rank_sends_nothing(size):
    for cost in (by_node, by_node_with_rings, flat_ring):
        assert cost(size, 1, MACHINE) == 0


@given(sizes, ranks)
def test_within_a_node_all_are_one_ring(size, count):
    if count <= MACHINE.node:
        assert by_node(size, count, MACHINE) == flat_ring(size, count, MACHINE)
        assert by_node(size, count, MACHINE) == ring(size, count, MACHINE.inside)


@given(sizes, ranks)
def test_a_choice_is_never_slower_than_rings(size, count):
    assert by_node(size, count, MACHINE) <= by_node_with_rings(size, count, MACHINE) * (1 + 1e-12)


@given(sizes, sizes, ranks)
def test_more_bytes_take_longer_and_two_messages_longer_than_one(one, other, count):
    for cost in (by_node, by_node_with_rings, flat_ring):
        both = cost(one + other, count, MACHINE)
        assert both >= cost(one, count, MACHINE) * (1 - 1e-12)
        assert both <= (cost(one, count, MACHINE) + cost(other, count, MACHINE)) * (1 + 1e-12)


def test_by_node_is_three_rings():
    """64 ranks: 8 in a node, and 8 nodes that share an eighth of the bytes each."""
    expected = ring(1e9, 8, MACHINE.inside) + ring(1e9 / 8, 8, MACHINE.between)
    assert by_node_with_rings(1e9, 64, MACHINE) == pytest.approx(expected)


def test_a_tree_wins_where_latency_counts_and_a_ring_where_bytes_do():
    steps = tree(0, 512, 1.0, 1.0)
    assert steps == 2 * 9
    small, large = 1e3, 1e11
    assert by_node(small, 4096, MACHINE) < by_node_with_rings(small, 4096, MACHINE)
    assert by_node(large, 64, MACHINE) == by_node_with_rings(large, 64, MACHINE)


def test_sharding_sends_half_as_much_again_for_a_plain_update():
    """3 (R - 1) / R bytes against 2 (R - 1) / R."""
    sent = sharded_bytes(1.0, evaluations=1, gradients=1, ranks=8)
    assert sent == pytest.approx(1.5 * 2 * 7 / 8)


def test_the_slowest_of_many_by_drawing():
    generator = torch.Generator().manual_seed(0)
    times = 1 + 0.05 * torch.randn(20000, 64, generator=generator)
    assert slowest(64, 0.05) == pytest.approx(float(times.amax(1).mean()), rel=1e-3)
    assert slowest(4096, 0.0) == 1.0
