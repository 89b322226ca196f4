"""Order, positions and errors of batches that are loaded ahead, with a stand-in for the device."""

import random
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mlo import BatchError
from mlo.feed import Feed
from mlo.loader_state import global_state, set_global
from mlo.prefetch import Here, Prefetch, SideStream, copier, tensors_of
from tests.loaders import LOADERS, ON_WORKERS, Augmented

CPU = torch.device("cpu")


class Sent(Here):
    """A batch on its way to a device that has streams."""

    moves = True


class Numbers:
    """Gives 0, 1, 2, ...; raises where it is told to."""

    def __init__(self, *failing, error=BatchError):
        self.given = []
        self.asked = 0
        self.mark = None
        self._failing = failing
        self._error = error

    def next(self, *, keep):
        self.mark = self.asked
        self.asked += 1
        if self.mark in self._failing:
            raise self._error(f"no {self.mark}")
        self.given.append((self.mark, keep))
        return self.mark, 1.0


def test_the_next_batch_is_asked_for_before_the_last_one_is_handed_out():
    prefetch, numbers = Prefetch(CPU, Sent), Numbers()
    assert prefetch.next(numbers) == (0, 1.0, 0)
    assert numbers.given == [(0, False), (1, True)]
    assert prefetch.next(numbers) == (1, 1.0, 1)
    assert numbers.given[-1] == (2, True)
    assert prefetch.waiting.mark == 2


@pytest.mark.parametrize("copy", [None, Here])
def test_nothing_is_asked_for_ahead_where_nothing_moves(copy):
    prefetch, numbers = Prefetch(CPU, copy), Numbers()
    assert [prefetch.next(numbers)[0] for _ in range(3)] == [0, 1, 2]
    assert numbers.asked == 3
    assert prefetch.waiting is None


def test_what_is_filled_in_comes_next():
    prefetch, numbers = Prefetch(CPU, None), Numbers()
    prefetch.fill(numbers)
    prefetch.fill(numbers)
    assert numbers.asked == 1
    assert [prefetch.next(numbers)[0] for _ in range(2)] == [0, 1]


@pytest.mark.parametrize("copy", [None, Here, Sent])
def test_an_error_is_raised_when_its_turn_comes(copy):
    prefetch, numbers = Prefetch(CPU, copy), Numbers(0, 2)
    found = []
    for _ in range(5):
        try:
            found.append(prefetch.next(numbers)[0])
        except BatchError as error:
            found.append(str(error))
    assert found == ["no 0", 1, "no 2", 3, 4]


def test_an_interruption_loses_no_batch():
    prefetch, numbers = Prefetch(CPU, Sent), Numbers(1, error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        prefetch.next(numbers)
    assert [prefetch.next(numbers)[0] for _ in range(2)] == [0, 2]


def feed_of(make, copy=Sent):
    feed = Feed("x", make(), CPU)
    feed._prefetch = Prefetch(CPU, copy)
    feed.check()
    return feed


def drawn(feed, count):
    batches = []
    for _ in range(count):
        batches.append(feed.draw())
        torch.rand(2)
        random.random()
    return batches


def same(left, right):
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def resumed(make, before, after, copy=Sent):
    """Return what comes after a position without an interruption and with one."""
    set_global(START, CPU)
    feed = feed_of(make)
    drawn(feed, before)
    state, generators = feed.state_dict(), global_state(CPU)
    expected = drawn(feed, after)
    set_global(OTHER, CPU)
    again = feed_of(make, copy)
    again.load_state_dict(state)
    set_global(generators, CPU)
    return expected, drawn(again, after)


torch.manual_seed(1)
START = global_state(CPU)
torch.manual_seed(2)
OTHER = global_state(CPU)


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
@settings(max_examples=8, deadline=None)
@given(before=st.integers(0, 12), after=st.integers(1, 8))
def test_a_position_is_that_of_the_batches_handed_out(make, before, after):
    expected, found = resumed(make, before, after)
    assert same(expected, found)


@pytest.mark.parametrize("before", [1, 4, 6])
def test_a_feed_that_loads_nothing_ahead_goes_on_with_the_same_batch(before):
    # On a CPU what was prefetched on an accelerator comes first, too.
    def make():
        return DataLoader(Augmented(), batch_size=3, shuffle=True)

    expected, found = resumed(make, before, 1, None)
    assert same(expected, found)


def test_workers_are_asked_ahead_too():
    expected, found = resumed(ON_WORKERS["augmented"], 3, 4)
    assert same(expected, found)


def test_the_number_of_epochs_is_that_of_the_batches_handed_out():
    feed = feed_of(lambda: [torch.tensor(0), torch.tensor(1)])
    epochs = []
    for _ in range(5):
        feed.draw()
        epochs.append(feed.epochs)
    assert epochs == [0, 0, 1, 1, 2]


def test_the_end_of_a_one_shot_iterator_is_raised_after_its_last_batch():
    feed = feed_of(lambda: iter([torch.tensor(0), torch.tensor(1)]))
    assert [int(feed.draw()) for _ in range(2)] == [0, 1]
    with pytest.raises(BatchError, match="one-shot iterator that has ended"):
        feed.draw()


def test_every_tensor_of_a_batch_is_found():
    x = torch.ones(2)
    assert tensors_of({"a": (x, [x]), "b": types.SimpleNamespace(x=x), "c": "text"}) == [x, x]


def test_a_device_without_streams_gets_plain_copies():
    meta = torch.device("meta")
    assert copier(CPU) is None
    assert copier(meta) is None
    assert Feed("x", [torch.ones(1)], meta).draw().device == meta


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_arrive_unharmed_while_the_device_works():
    device = torch.device("cuda", torch.cuda.current_device())
    batches = [{"x": torch.full((1_000_000,), float(i)), "n": i} for i in range(20)]
    feed = Feed("x", batches, device)
    sums = []
    for i in range(20):
        batch = feed.draw()
        assert batch["n"] == i
        work = torch.rand(1000, 1000, device=device)
        for _ in range(5):
            work = work @ work
        sums.append(batch["x"].sum())
        del batch
    assert [float(s) / 1_000_000 for s in sums] == [float(i) for i in range(20)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_is_on_the_device_already_is_not_copied():
    device = torch.device("cuda", torch.cuda.current_device())
    there = torch.ones(3, device=device)
    copying = SideStream(device)((there, "text"))
    assert not copying.moves
    assert copying.arrived()[0] is there
