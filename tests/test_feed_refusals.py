"""A position that does not fit is refused, and the feed stands where it stood."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mlo import CheckpointError
from mlo.feed import Feed
from tests.feeds import CPU, drawn, fed, same, saved, seed_all
from tests.loaders import LOADERS, ROWS, generator

CHANGES = {
    "another kind": (lambda: [1, 2], "type of loader was 'DataLoader', now it is 'list'"),
    "another number": (
        lambda: DataLoader(range(ROWS), batch_size=2, shuffle=True),
        "number of batches was 4, now it is 5",
    ),
    "other rows": (
        lambda: DataLoader(range(ROWS + 1), batch_size=3, shuffle=True),
        "number of rows was 10, now it is 11",
    ),
    "in order": (
        lambda: DataLoader(range(ROWS), batch_size=3),
        "type of sampler was 'RandomSampler', now it is 'SequentialSampler'",
    ),
    "a generator": (
        lambda: DataLoader(range(ROWS), batch_size=3, shuffle=True, generator=generator()),
        r"generators or epochs at \[\], now it has them at \['generator'\]",
    ),
}


@pytest.mark.parametrize(("make", "message"), CHANGES.values(), ids=CHANGES)
def test_another_loader_is_refused_and_the_feed_stands_where_it_stood(make, message):
    feed = Feed("x", DataLoader(range(ROWS), batch_size=3, shuffle=True), CPU)
    drawn(feed, 2)
    state = saved(feed)

    def begun():
        seed_all(4)
        again = Feed("x", make(), CPU)
        again.draw()
        return again

    untouched, again = begun(), begun()
    with pytest.raises(CheckpointError, match=f"problem 'x': .*{message}") as caught:
        again.load_state_dict(state)
    assert "\n" not in str(caught.value)
    seed_all(6)
    expected = drawn(untouched, 6)
    seed_all(6)
    assert same(expected, drawn(again, 6))


class Shorter:
    """Says nothing of its length."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(range(self.count))


def test_a_loader_that_ends_before_the_position_is_refused():
    feed = fed(lambda: Shorter(5))
    drawn(feed, 4)
    state = saved(feed)
    again = fed(lambda: Shorter(3))
    again.draw()
    message = "problem 'x': 4 batches of its epoch had been drawn, but now it ends after 3"
    with pytest.raises(CheckpointError, match=message):
        again.load_state_dict(state)
    assert drawn(again, 3) == [1, 2, 0]


@pytest.mark.parametrize("state", [{}, {"loader": 3}, {"loader": {}}])
def test_a_state_that_is_none_is_refused(state):
    with pytest.raises(CheckpointError, match="problem 'x': "):
        Feed("x", [1, 2], CPU).load_state_dict(state)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_damaged_state_is_refused_and_harms_nothing(data):
    feed = Feed("x", LOADERS["own generator"](), CPU)
    drawn(feed, 2)
    state = saved(feed)
    part = data.draw(st.sampled_from([state, state["position"], state["position"]["began"]]))
    key = data.draw(st.sampled_from(sorted(part)))
    part[key] = data.draw(st.sampled_from([None, "text", [1], {"a": 1}, -3, torch.ones(2)]))
    untouched, again = fed(LOADERS["own generator"]), fed(LOADERS["own generator"])
    try:
        again.load_state_dict(state)
    except CheckpointError:
        assert same(drawn(untouched, 6), drawn(again, 6))
