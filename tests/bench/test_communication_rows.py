"""Rows spread over ranks: where they are, what is exchanged, and that they move as one table."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.bench import communication_rows
from mlo.bench.case import Settings
from mlo.bench.communication_rows import SLICE, gathered_bytes
from mlo.bench.communication_shards import (
    Placement,
    RowShards,
    distinct,
    exchange,
    largest_load,
)
from mlo.bench.programs import BenchmarkError


@given(st.integers(1, 400), st.integers(1, 40), st.booleans())
def test_every_row_has_one_place_and_shards_are_even(rows, ranks, is_spread):
    ranks = min(ranks, rows)
    placement = Placement(rows=rows, ranks=ranks, is_spread=is_spread)
    index = torch.arange(rows)
    places = placement.places(index)
    assert sorted(places.tolist()) == index.tolist()
    counts = torch.bincount(placement.owners(index), minlength=ranks)
    assert counts.sum() == rows
    assert counts.max() - counts.min() <= 1
    for rank in range(ranks):
        own = places[placement.owners(index) == rank]
        assert own.min() == placement.start(rank)
        assert own.max() == placement.start(rank + 1) - 1


def test_on_another_number_of_ranks_ranges_are_read_again():
    """A rank of 6 needs the rows of at most two neighbours of 4."""
    before, after = Placement(rows=1001, ranks=4), Placement(rows=1001, ranks=6)
    index = torch.arange(1001)
    for rank in range(6):
        sources = distinct(before.owners(index[after.owners(index) == rank])).tolist()
        assert len(sources) <= 2
        assert sources == list(range(sources[0], sources[-1] + 1))


@pytest.mark.parametrize(("rows", "ranks"), [(3, 4), (4 * 10**9, 8)])
def test_a_table_that_cannot_be_placed_is_refused(rows, ranks):
    with pytest.raises(BenchmarkError, match=f"got {rows}"):
        Placement(rows=rows, ranks=ranks)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(1, 12), st.integers(0, 10**6))
def test_exchanges_are_what_one_counts_row_by_row(ranks, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    placement = Placement(rows=50, ranks=ranks)
    wanted = [torch.randint(50, (rows,), generator=generator) for _ in range(ranks)]
    found = exchange(placement, wanted, width=3)
    asked = [[0] * ranks for _ in range(ranks)]
    for rank, index in enumerate(wanted):
        for row in set(index.tolist()):
            asked[rank][int(placement.owners(torch.tensor([row])))] += 1
    abroad = [[0 if a == b else asked[a][b] for b in range(ranks)] for a in range(ranks)]
    assert found.index_bytes.tolist() == [8 * sum(row) for row in abroad]
    assert found.gradient_bytes.tolist() == [12 * sum(row) for row in abroad]
    assert found.row_bytes.tolist() == [12 * sum(row) for row in zip(*abroad, strict=True)]
    assert found.messages.tolist() == [sum(n > 0 for n in row) for row in abroad]
    assert found.load.tolist() == [sum(row) for row in zip(*asked, strict=True)]


@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_shards_move_as_the_whole_table_does_with_sparse_adam(ranks):
    torch.manual_seed(0)
    table = torch.randn(61, 8, dtype=torch.float64)
    shards = RowShards(table, ranks, rate=0.1, betas=(0.9, 0.99))
    whole = torch.nn.Embedding(61, 8, sparse=True, _weight=table.clone())
    optimizer = torch.optim.SparseAdam(whole.parameters(), lr=0.1, betas=(0.9, 0.99))
    seen = set()
    for _ in range(12):
        wanted = [torch.randint(40, (5,)) for _ in range(ranks)]
        seen |= {row for index in wanted for row in index.tolist()}
        rows = shards.looked_up(wanted)
        for index, got in zip(wanted, rows, strict=True):
            assert torch.equal(got, shards.whole()[index])
        optimizer.zero_grad()
        torch.stack([(whole(index) ** 3).sum() for index in wanted]).sum().backward()
        optimizer.step()
        shards.update(wanted, [3 * row**2 for row in rows])
    assert torch.allclose(shards.whole(), whole.weight, rtol=0, atol=1e-13)
    untouched = [row for row in range(61) if row not in seen]
    assert torch.equal(shards.whole()[untouched], table[untouched])


@pytest.mark.parametrize("ranks", [8, 64, 512])
def test_the_fullest_rank_is_as_full_as_chance_makes_it(ranks):
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        owners = torch.randint(ranks, (SLICE * ranks,), generator=generator)
        found.append(float(torch.bincount(owners, minlength=ranks).max()))
    # Loads of few ranks know of each other, which the formula leaves out.
    mean = sum(found) / len(found)
    assert largest_load(SLICE * ranks, ranks) == pytest.approx(mean, rel=0.01)


def test_neighbours_meet_one_rank_in_ranges_and_none_twice_as_much_when_spread():
    neighbours = [torch.arange(64) + 64 * rank for rank in range(16)]
    ranges = Placement(rows=10**6, ranks=16, is_spread=False)
    spread = Placement(rows=10**6, ranks=16)
    assert exchange(ranges, neighbours, 8).load.max() == 16 * 64
    assert exchange(spread, neighbours, 8).load.max() <= 1.1 * 64


def test_the_table():
    rows = communication_rows.run(Settings(quick=True)).rows
    assert [row["ranks"] for row in rows] == [8] * 5 + [64] * 5
    gathered, random, _, ranges, local = rows[:5]
    assert gathered["received (kB)"] == gathered_bytes(8) / 1e3 == 7 * 256 * 40 / 1e3
    # Each of 256 rows is abroad in 7 of 8 cases: index, row and gradient.
    assert random["received (kB)"] == pytest.approx(256 * 7 / 8 * 72 / 1e3, rel=0.02)
    assert ranges["fullest / mean"] == 8
    assert (local["received (kB)"], local["messages"], local["network (ms)"]) == (0, 0, 0)
