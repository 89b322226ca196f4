"""Updates whose finiteness is looked at once in a while."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo import NonFiniteError
from mlo.flags import Flags


def flag(value):
    return torch.tensor(value)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.booleans()), max_size=20))
@settings(max_examples=30)
def test_the_first_bad_update_is_named(updates):
    flags = Flags()
    for number, (name, usable) in enumerate(updates, start=1):
        flags.add(name, number, flag(usable))
    bad = [(name, n) for n, (name, usable) in enumerate(updates, start=1) if not usable]
    if bad:
        name, number = bad[0]
        with pytest.raises(NonFiniteError, match=f"^problem '{name}', round {number}: ") as caught:
            flags.read()
        assert (caught.value.problem, caught.value.round) == bad[0]
    # What has been read is not read again.
    flags.read()


def test_nothing_to_read():
    Flags().read()
    Flags().read_some()


def test_flags_are_read_before_they_pile_up_and_not_before():
    flags = Flags()
    flags.add("x", 1, flag(False))
    for number in range(2, 1001):
        flags.add("x", number, flag(True))
        flags.read_some()
    flags.add("x", 1001, flag(True))
    with pytest.raises(NonFiniteError, match=r"^problem 'x', round 1: "):
        flags.read_some()


def test_what_is_forgotten_is_not_read():
    flags = Flags()
    flags.add("x", 1, flag(False))
    flags.clear()
    flags.read()
    flags.add("x", 2, flag(False))
    with pytest.raises(NonFiniteError, match=r"^problem 'x', round 2: "):
        flags.read()


def test_the_message_is_one_line_that_says_what_to_do():
    flags = Flags()
    flags.add("model", 3, flag(False))
    with pytest.raises(NonFiniteError) as caught:
        flags.read()
    message = str(caught.value)
    assert "\n" not in message
    assert "the update was replaced by a zero gradient" in message
    assert "Lower its learning rate or look at its batch" in message
