"""Ranks that share every batch, one after the other in one process."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mlo import BatchError
from mlo.feed import Feed
from mlo.loader_state import differing, global_state, set_global
from mlo.parallel.rows import sliced
from tests.loaders import LOADERS, Shuffled, generator, rows

CPU = torch.device("cpu")


class OneByOne:
    """A rank that learns what rank 0 had gathered, as rank 0 has run before it."""

    def __init__(self, rank, size, log):
        self.rank, self.size = rank, size
        self._log = log
        self._read = 0

    def slice(self, batch):
        return sliced(batch, self.rank, self.size)

    def gathered(self, value):
        if self.rank == 0:
            self._log.append(value)
        self._read += 1
        return [self._log[self._read - 1], *[value] * (self.size - 1)]


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def feeds_of(make, size):
    log = []
    return [Feed("x", make(), CPU, OneByOne(rank, size, log)) for rank in range(size)]


def first_tensor(batch):
    return batch if isinstance(batch, torch.Tensor) else first_tensor(batch[0])


def joined(shares):
    return torch.cat([first_tensor(batch) for batch, _ in shares])


def of_all(feeds, count, prepare=lambda rank: seed_all(7)):
    """Return the rows that all ranks together see of each batch."""
    each = []
    for rank, feed in enumerate(feeds):
        prepare(rank)
        each.append([feed.draw_weighted() for _ in range(count)])
    return [joined(shares) for shares in zip(*each, strict=True)]


SHARED = {
    name: LOADERS[name]
    for name in (
        *("shuffled", "own generator", "with replacement", "weighted, own generator"),
        *("own sampler", "own batch sampler", "batch sampler", "iterable with a generator"),
        *("iterable with a count", "saves itself"),
    )
}


def without_a_short_batch(make):
    """Leave out batches of one row, which two ranks cannot share."""

    class Longer:
        def __init__(self):
            self.loader = make()

        def __iter__(self):
            return (batch for batch in self.loader if len(first_tensor(batch)) > 2)

    return Longer


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
def test_ranks_together_see_the_batches_of_one(make, size):
    make = without_a_short_batch(make)
    seed_all(7)
    feed = Feed("x", make(), CPU)
    expected = [first_tensor(feed.draw()) for _ in range(9)]
    found = of_all(feeds_of(make, size), 9)
    assert all(map(torch.equal, expected, found))


def four_by_four(**options):
    return DataLoader(range(12), batch_size=4, shuffle=True, **options)


LOADED = {
    "of the global generator": four_by_four,
    "of its own generator": lambda: four_by_four(generator=generator()),
    "by workers": lambda: four_by_four(num_workers=1),
    "by kept workers": lambda: four_by_four(num_workers=1, persistent_workers=True),
}


@pytest.mark.parametrize("make", LOADED.values(), ids=LOADED)
def test_ranks_begin_alike_even_if_they_are_seeded_differently(make):
    seed_all(7)
    feed = Feed("x", make(), CPU)
    expected = [feed.draw() for _ in range(3)]
    found = of_all(feeds_of(make, 2), 8, prepare=lambda rank: seed_all(7 + rank))
    assert all(map(torch.equal, expected, found))
    for epoch in (found[:3], found[3:6]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    assert not torch.equal(found[0], found[3])


def test_what_a_rank_draws_for_itself_goes_on():
    feeds = feeds_of(four_by_four, 2)
    seed_all(7)
    feeds[0].draw()
    seed_all(8)
    before = global_state(CPU)
    feeds[1].draw()
    assert not differing(before, global_state(CPU))


def test_ranks_that_are_seeded_alike_stay_alike():
    states = []
    for feed in feeds_of(four_by_four, 2):
        seed_all(7)
        feed.draw()
        states.append(global_state(CPU))
    assert not differing(*states)


class Watched(Dataset):
    def __init__(self):
        self.read = []

    def __len__(self):
        return 12

    def __getitem__(self, row):
        self.read.append(row)
        return row


def test_a_rank_loads_its_own_rows_alone():
    data = [Watched(), Watched(), Watched()]
    log = []
    for rank in range(3):
        seed_all(7)
        loader = DataLoader(data[rank], batch_size=4, shuffle=True)
        feed = Feed("x", loader, CPU, OneByOne(rank, 3, log))
        shares = [feed.draw_weighted() for _ in range(3)]
        assert [len(batch) for batch, _ in shares] == [[2, 1, 1][rank]] * 3
        assert [weight for _, weight in shares] == [3 * [2, 1, 1][rank] / 4] * 3
    assert sorted(row for one in data for row in one.read) == list(range(12))


@pytest.mark.parametrize("make", [lambda: [torch.arange(5)], lambda: Shuffled(generator())])
def test_the_weights_of_a_batch_have_the_mean_one(make):
    feeds = feeds_of(make, 2)
    weights = []
    for feed in feeds:
        weights.append(feed.draw_weighted()[1])
    assert sum(weights) / 2 == pytest.approx(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(range(9), batch_size=4),
        lambda: DataLoader(range(9), batch_size=4, num_workers=1),
        lambda: list(torch.arange(9).split(4)),
    ],
)
def test_too_few_rows_are_refused_when_their_turn_comes(make):
    for feed in feeds_of(make, 2):
        for _ in range(2):
            assert [len(feed.draw()) for _ in range(2)] == [2, 2]
            message = "problem 'x': batch 3 of epoch .: a batch for 2 ranks must have at least 2 r"
            with pytest.raises(BatchError, match=message):
                feed.draw()


def resumed(make, before, size):
    """Return what 2 ranks see after a position, and what `size` ranks see that go on from it."""
    feeds = feeds_of(make, 2)
    of_all(feeds, before)
    state, generators = feeds[0].state_dict(), global_state(CPU)

    def prepare(rank):
        set_global(generators, CPU)

    expected = of_all(feeds, 5, prepare)
    again = feeds_of(make, size)
    for feed in again:
        feed.load_state_dict(state)
    return expected, of_all(again, 5, prepare)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("before", [0, 2, 3, 4])
@pytest.mark.parametrize(
    "make", [*list(LOADED.values())[:2], lambda: [*torch.arange(20).view(5, 4)]]
)
def test_a_position_holds_for_any_number_of_ranks(make, before, size):
    expected, found = resumed(make, before, size)
    assert all(map(torch.equal, expected, found))


def test_a_position_holds_for_any_number_of_ranks_with_workers():
    expected, found = resumed(LOADED["by workers"], 4, 3)
    assert all(map(torch.equal, expected, found))


def test_a_sampler_that_shares_rows_out_itself_is_refused():
    data = rows()
    loader = DataLoader(data, sampler=DistributedSampler(data, num_replicas=2, rank=0))
    with pytest.raises(BatchError, match="problem 'x': the DistributedSampler at 'sampler' shares"):
        Feed("x", loader, CPU, OneByOne(0, 2, []))
    Feed("x", loader, CPU)


def test_batches_that_come_as_they_please_are_refused():
    loader = DataLoader(rows(), num_workers=1, in_order=False)
    with pytest.raises(BatchError, match=r"problem 'x': .* in_order=False"):
        Feed("x", loader, CPU, OneByOne(0, 2, []))


def test_ranks_with_different_loaders_are_refused():
    log = []
    first = Feed("x", four_by_four(), CPU, OneByOne(0, 2, log))
    second = Feed("x", four_by_four(generator=generator()), CPU, OneByOne(1, 2, log))
    first.draw()
    with pytest.raises(BatchError, match=r"problem 'x': all ranks must have the same loader"):
        second.draw()
