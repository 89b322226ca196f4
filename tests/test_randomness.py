import random

import numpy as np
import pytest
import torch

from mlo.randomness import capture, replayed, restore

CPU = torch.device("cpu")


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_captured_state_brings_the_same_numbers_back():
    state = capture(CPU)
    first = draws()
    assert draws() != first
    restore(state, CPU)
    assert draws() == first


def test_every_call_draws_the_same_numbers():
    draw = replayed(draws, CPU)
    first = draw()
    random.seed(99)
    torch.manual_seed(99)
    assert draw() == first == draw()


def test_generators_move_as_if_it_had_been_called_once():
    state = capture(CPU)
    draws()
    expected = draws()
    restore(state, CPU)
    draw = replayed(draws, CPU)
    for _ in range(3):
        draw()
    assert draws() == expected


def test_a_later_call_does_not_take_back_what_was_drawn_since():
    state = capture(CPU)
    draw = replayed(draws, CPU)
    draw()
    between = draws()
    draw()
    after = draws()
    restore(state, CPU)
    draws()
    assert (draws(), draws()) == (between, after)


def test_two_replayed_functions_draw_different_numbers():
    assert replayed(draws, CPU)() != replayed(draws, CPU)()


def test_a_later_call_that_fails_leaves_the_generators_where_they_were():
    calls = []

    def fails_the_second_time():
        calls.append(draws())
        if len(calls) == 2:
            raise RuntimeError("no")

    draw = replayed(fails_the_second_time, CPU)
    draw()
    state = capture(CPU)
    with pytest.raises(RuntimeError, match="no"):
        draw()
    after = draws()
    restore(state, CPU)
    assert draws() == after
    assert calls[0] == calls[1]


def test_arguments_and_answers_pass_through():
    assert replayed(lambda a, *, b: (a, b), CPU)(1, b=2) == (1, 2)
