import random

import numpy as np
import pytest
import torch

from mlo.randomness import Replay, capture, restore

CPU = torch.device("cpu")


def replayed(function, device):
    replay = Replay(device)
    return lambda *args, **kwargs: replay(function, *args, **kwargs)


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


def test_a_leftover_normal_deviate_of_numpy_is_part_of_the_state():
    """NumPy draws normal deviates in pairs: the second one moves no word of the generator."""
    np.random.seed(3)
    np.random.randn()
    draw = replayed(np.random.randn, CPU)
    assert draw() == draw()
    np.random.seed(3)
    np.random.randn(2)
    assert np.random.randn() == (np.random.seed(3), np.random.randn(3))[1][2]


def test_each_generator_is_noticed_by_itself():
    for one in (random.random, lambda: float(np.random.rand()), lambda: float(torch.rand(()))):
        draw = replayed(one, CPU)
        assert draw() == draw() == draw()
        assert one() != draw()


def test_a_given_state_is_where_every_call_starts():
    state = capture(CPU)
    expected, after = draws(), draws()
    replay = Replay(CPU, state)
    assert replay(draws) == replay(draws) == expected
    restore(state, CPU)
    draws()
    replay(draws)
    assert draws() == after


def test_another_bit_generator_of_numpy_is_replayed_too():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        draw = replayed(np.random.randn, CPU)
        assert draw() == draw()
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.parametrize("draw", [np.random.normal, lambda: random.gauss(0, 1)])
def test_a_leftover_deviate_survives_a_restored_state(draw):
    random.seed(0)
    np.random.seed(0)
    draw()
    with_leftover = capture(CPU)
    draw()
    capture(CPU)
    restore(with_leftover, CPU)
    again = capture(CPU)
    expected = draw(), draw()
    restore(again, CPU)
    assert (draw(), draw()) == expected
