"""A feed goes on bitwise where another one stood."""

import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

from mlo import BatchError, CheckpointError
from mlo.feed import Feed
from mlo.loader_state import differing, global_state
from mlo.randomness import capture, restore
from mlo.resumption import LoaderWarning
from tests.feeds import CPU, drawn, fed, same, saved, seed_all, train
from tests.loaders import (
    LOADERS,
    ON_WORKERS,
    ROWS,
    Augmented,
    Buffered,
    DrawnGlobally,
    MadeLate,
    Shuffled,
    Subclassed,
    drawn_with_replacement,
    generator,
    rows,
    sampled,
)


def resumed(make, before, after):
    """Return what comes after a position without an interruption and with one."""
    seed_all(1)
    feed = fed(make)
    drawn(feed, before)
    state, generators = saved(feed), capture(CPU)
    expected = drawn(feed, after)
    seed_all(2)
    train()
    again = fed(make)
    now = global_state(CPU)
    again.load_state_dict(state)
    assert not differing(now, global_state(CPU)), "loading has drawn"
    restore(generators, CPU)
    return expected, drawn(again, after)


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
@settings(max_examples=10, deadline=None)
@given(before=st.integers(0, 12), after=st.integers(1, 12))
def test_what_comes_after_a_position_does_not_depend_on_an_interruption(make, before, after):
    expected, found = resumed(make, before, after)
    assert same(expected, found)


def once():
    return (torch.tensor(i) for i in range(11))


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("make", [*LOADERS.values(), once], ids=[*LOADERS, "one-shot"])
def test_a_second_interruption_changes_nothing_either(make, before):
    seed_all(1)
    feed = fed(make)
    drawn(feed, before)
    state, generators = saved(feed), capture(CPU)
    expected = drawn(feed, 9)
    found = []
    for _ in range(9):
        feed = fed(make)
        feed.load_state_dict(state)
        restore(generators, CPU)
        found += drawn(feed, 1)
        state, generators = saved(feed), capture(CPU)
    assert same(expected, found)


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_the_same_feed_can_be_taken_back(make):
    seed_all(1)
    feed = fed(make)
    drawn(feed, 3)
    state, generators = saved(feed), capture(CPU)
    expected = drawn(feed, 7)
    feed.load_state_dict(state)
    restore(generators, CPU)
    assert same(expected, drawn(feed, 7))


@pytest.mark.parametrize("before", [0, 1, 2, 4, 5, 7])
@pytest.mark.parametrize("make", ON_WORKERS.values(), ids=ON_WORKERS)
@pytest.mark.slow
def test_workers_go_on_as_if_nothing_had_been(make, before):
    expected, found = resumed(make, before, 4)
    assert same(expected, found)


@pytest.mark.parametrize(("name", "before"), [("augmented", 3), ("stream", 5)])
def test_two_workers_go_on_as_if_nothing_had_been(name, before):
    expected, found = resumed(ON_WORKERS[name], before, 4)
    assert same(expected, found)


def test_a_one_shot_iterator_is_skipped_forward():
    def make():
        return iter([torch.tensor(i) for i in range(8)])

    for before in range(8):
        expected, found = resumed(make, before, 8 - before)
        assert same(expected, found)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_one_shot_iterator_that_draws_is_resumed_from_equal_seeds(before):
    def make():
        seed_all(7)
        return (batch for batch in DataLoader(Augmented(), batch_size=1, shuffle=True))

    expected, found = resumed(make, before, 5)
    assert same(expected, found)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_one_shot_iterator_that_has_not_been_looked_at_is_resumed_from_any_seed(before):
    def make():
        return iter(DataLoader(Augmented(), batch_size=1, shuffle=True))

    expected, found = resumed(make, before, 5)
    assert same(expected, found)


@pytest.mark.parametrize("before", [0, 3])
def test_a_one_shot_iterator_that_has_drawn_from_another_seed_is_reported(before):
    def make():
        return (batch for batch in DataLoader(rows(), batch_size=1, shuffle=True))

    with pytest.warns(LoaderWarning, match="problem 'x': its one-shot iterator has drawn from glo"):
        resumed(make, before, 3)


def test_another_number_of_workers_is_reported():
    def make(workers):
        return Feed("x", DataLoader(rows(), batch_size=3, num_workers=workers), CPU)

    feed = make(1)
    drawn(feed, 2)
    again = make(0)
    with pytest.warns(LoaderWarning, match="problem 'x': its loader had 1 workers, now it has 0"):
        again.load_state_dict(feed.state_dict())
    assert same(drawn(feed, 2), drawn(again, 2))


def test_a_one_shot_iterator_cannot_go_back():
    feed = fed(lambda: iter(range(5)))
    drawn(feed, 1)
    state = saved(feed)
    assert drawn(feed, 2) == [1, 2]
    with pytest.raises(CheckpointError, match="problem 'x': 1 batches of its one-shot iterator"):
        feed.load_state_dict(state)
    assert drawn(feed, 2) == [3, 4]


@pytest.mark.parametrize("make", [Shuffled, LOADERS["own generator"], LOADERS["distributed"]])
@pytest.mark.parametrize("before", [0, 1, 3, 4, 6])
def test_two_problems_may_share_a_loader(make, before):
    def both(loader):
        return Feed("a", loader, CPU), Feed("b", loader, CPU)

    def alternate(feeds, count):
        return [feeds[i % 3 == 0].draw() for i in range(count)]

    feeds = both(make())
    alternate(feeds, before)
    states, generators = [saved(feed) for feed in feeds], capture(CPU)
    expected = alternate(feeds, 12)
    seed_all(5)
    again = both(make())
    for feed, state in zip(again, states, strict=True):
        feed.load_state_dict(state)
    restore(generators, CPU)
    assert same(expected, alternate(again, 12))


def test_a_distributed_sampler_is_told_the_epoch():
    data = rows()
    sampler = DistributedSampler(data, num_replicas=1, rank=0)
    feed = Feed("x", DataLoader(data, batch_size=ROWS, sampler=sampler), CPU)
    orders = [feed.draw()[0].tolist() for _ in range(3)]
    expected = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected.append(list(sampler))
    assert orders == expected


def test_an_epoch_that_somebody_else_has_set_is_left_alone():
    data = rows()
    sampler = DistributedSampler(data, num_replicas=1, rank=0)
    feed = Feed("x", DataLoader(data, batch_size=ROWS, sampler=sampler), CPU)
    feed.draw()
    sampler.set_epoch(40)
    feed.draw()
    assert sampler.epoch == 40


def test_nothing_is_loaded_to_pass_over_rows():
    loaded = []

    class Watched(Augmented):
        def __getitem__(self, row):
            loaded.append(row)
            return super().__getitem__(row)

    def make():
        return DataLoader(Watched(), batch_size=3, shuffle=True)

    feed = fed(make)
    drawn(feed, 3)
    state = saved(feed)
    loaded.clear()
    fed(make).load_state_dict(state)
    assert loaded == []


def size_of(value):
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return 8


def test_a_position_holds_no_data():
    class Large(torch.utils.data.Dataset):
        def __init__(self):
            self.content = torch.zeros(1_000_000)
            self.names = [str(i) for i in range(10_000)]

        def __len__(self):
            return 10_000

        def __getitem__(self, row):
            return row

    feed = Feed("x", DataLoader(Large(), batch_size=2, shuffle=True, generator=generator()), CPU)
    drawn(feed, 3)
    assert size_of(feed.state_dict()) < 60_000


def test_a_loader_that_draws_in_mid_epoch_from_what_training_draws_from_is_reported():
    def make():
        return DataLoader(rows(), batch_sampler=DrawnGlobally())

    with pytest.warns(LoaderWarning, match="problem 'x': its loader draws from the global generat"):
        expected, found = resumed(make, 3, 2)
    # Nothing is drawn ahead here, so that no harm is done.
    assert same(expected, found)


def test_a_shuffle_buffer_on_the_global_generator_is_reported():
    with pytest.warns(LoaderWarning, match="the global generator of python in the middle of an"):
        resumed(lambda: DataLoader(Buffered(random), batch_size=3), 3, 2)


def test_a_shared_generator_that_is_drawn_ahead_is_reported():
    loader = sampled(drawn_with_replacement(generator=generator()))
    first, second = Feed("a", loader, CPU), Feed("b", loader, CPU)
    for _ in range(12):
        first.draw()
        second.draw()
    state = saved(first)
    with pytest.warns(LoaderWarning, match="problem 'a': its loader draws from 'sampler.generator"):
        first.load_state_dict(state)


@pytest.mark.parametrize("before", [4, 7])
def test_a_generator_that_was_made_late_is_resumed_in_later_epochs(before):
    expected, found = resumed(MadeLate, before + 1, 6)
    assert same(expected, found)


@pytest.mark.parametrize("before", [0, 2])
def test_a_generator_that_is_made_late_is_reported_in_the_first_epoch(before):
    with pytest.warns(LoaderWarning) as caught:
        resumed(MadeLate, before, 1)
    assert "problem 'x': its loader has made random generators since" in str(caught[0].message)


def test_a_loader_with_a_length_may_make_its_generator_late_too():
    class Sized(MadeLate):
        def __len__(self):
            return 4

    for before in range(9):
        expected, found = resumed(Sized, before, 6)
        assert same(expected, found)


def test_a_loader_that_is_alone_with_the_global_generator_is_not_reported():
    def make():
        return Subclassed(rows(), batch_size=3, shuffle=True)

    seed_all(1)
    feed = fed(make)
    feed.draw(), feed.draw()
    state, generators = saved(feed), capture(CPU)
    expected = feed.draw()
    again = fed(make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.load_state_dict(state)
    restore(generators, CPU)
    assert same(expected, again.draw())


def kept(**options):
    return DataLoader(
        Augmented(), batch_size=2, num_workers=1, persistent_workers=True, shuffle=True, **options
    )


def test_kept_workers_are_resumed_in_their_first_epoch_and_reported_later():
    expected, found = resumed(kept, 2, 2)
    assert same(expected, found)
    seed_all(1)
    feed = fed(kept)
    drawn(feed, 7)
    with pytest.warns(LoaderWarning, match="problem 'x': its loader keeps its workers"):
        state, generators = saved(feed), capture(CPU)
    saved(feed)  # once is enough
    expected = drawn(feed, 3)
    seed_all(2)
    again = fed(kept)
    again.load_state_dict(state)
    restore(generators, CPU)
    found = drawn(again, 3)
    # The order is that of the run that went on; the noise of the workers is another one.
    assert same([b[:, 0] for b in expected], [b[:, 0] for b in found])
    assert not same(expected, found)


def test_kept_workers_cannot_serve_two_problems_at_once():
    loader = kept()
    first, second = Feed("a", loader, CPU), Feed("b", loader, CPU)
    first.draw(), second.draw()
    with pytest.raises(BatchError, match="problem 'a': its loader has been begun again elsewhere"):
        first.draw()
    second.draw()


def test_batches_that_come_as_they_please_are_reported():
    feed = fed(lambda: DataLoader(rows(), batch_size=3, num_workers=1, in_order=False))
    with pytest.warns(LoaderWarning, match=r"in_order=False"):
        feed.state_dict()


def test_the_number_of_epochs_goes_on():
    feed = fed(lambda: [1, 2])
    drawn(feed, 5)
    again = fed(lambda: [1, 2])
    again.load_state_dict(saved(feed))
    assert again.epochs == feed.epochs == 2
    drawn(again, 2)
    assert again.epochs == 3
