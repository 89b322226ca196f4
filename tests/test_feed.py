"""Batches of one problem, drawn for ever."""

import gc
import multiprocessing

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mlo import BatchError
from mlo.feed import Feed

CPU = torch.device("cpu")


def loader(length, **options):
    return DataLoader(TensorDataset(torch.arange(length)), **options)


def test_an_exhausted_loader_starts_again():
    feed = Feed("x", loader(4, batch_size=2), CPU)
    drawn = [feed.draw()[0].tolist() for _ in range(5)]
    assert drawn == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]
    assert feed.epochs == 2


def test_batches_are_those_of_a_loop_over_the_loader():
    def shuffled():
        torch.manual_seed(3)
        return loader(8, batch_size=3, shuffle=True)

    direct = [batch for loader in [shuffled()] for _ in range(3) for (batch,) in loader]
    feed = Feed("x", shuffled(), CPU)
    assert all(torch.equal(batch, feed.draw()[0]) for batch in direct)


def test_a_shuffling_loader_gives_a_new_order_each_epoch():
    generator = torch.Generator().manual_seed(0)
    feed = Feed("x", loader(8, batch_size=8, shuffle=True, generator=generator), CPU)
    first, second = feed.draw()[0].tolist(), feed.draw()[0].tolist()
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_a_batch_weighs_one_if_nobody_shares_it():
    assert Feed("x", ["batch"], CPU).draw_weighted() == ("batch", 1.0)


def test_nothing_is_drawn_before_it_is_asked_for():
    def never():
        raise AssertionError("drawn too early")
        yield

    Feed("x", never(), CPU)


class Nothing:
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize("batches", [iter([]), Nothing()])
def test_an_empty_loader_is_noticed_at_the_first_draw_or_by_a_check(batches):
    feed = Feed("x", batches, CPU)
    for ask in (feed.draw, feed.check, feed.draw, feed.check):
        with pytest.raises(BatchError, match="problem 'x': batches is empty, expected at least on"):
            ask()


def test_a_one_shot_iterator_is_used_up_and_then_named():
    feed = Feed("x", (torch.tensor(i) for i in range(2)), CPU)
    feed.check()
    assert [int(feed.draw()), int(feed.draw())] == [0, 1]
    message = "problem 'x': batches is a one-shot iterator that has ended; give an iterable that"
    for _ in range(2):
        with pytest.raises(BatchError, match=message):
            feed.draw()


def test_the_batch_that_a_check_looks_at_is_drawn_first():
    begun = []

    class Batches:
        def __iter__(self):
            begun.append(True)
            yield from range(3)

    feed = Feed("x", Batches(), CPU)
    feed.check()
    feed.check()
    assert [feed.draw() for _ in range(4)] == [0, 1, 2, 0]
    assert len(begun) == 2


def test_workers_end_with_the_last_reference_to_their_feed():
    feed = Feed("x", loader(8, batch_size=2, num_workers=1), CPU)
    feed.draw()
    assert multiprocessing.active_children()
    gc.disable()
    try:
        del feed
        assert not multiprocessing.active_children()
    finally:
        gc.enable()
