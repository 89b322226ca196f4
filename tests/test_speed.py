import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlo.speed import Speed


def test_nothing_is_known_before_the_first_round():
    speed = Speed(5.0, 10)
    assert speed.per_second == 0.0
    assert speed.left(100) is None


@given(st.floats(0.01, 1000.0), st.integers(1, 500))
def test_a_steady_rate_is_found(seconds, rounds):
    speed = Speed(0.0, 7)
    for number in range(1, rounds + 1):
        speed.add(number * seconds, 7 + number)
    assert speed.per_second == pytest.approx(1 / seconds)
    assert speed.left(7 + rounds + 10) == pytest.approx(10 * seconds)


def test_a_slow_beginning_is_forgotten_after_a_minute():
    speed = Speed(0.0, 0)
    speed.add(600.0, 1)
    for second in range(1, 70):
        speed.add(600.0 + second, 1 + 10 * second)
    assert speed.per_second == pytest.approx(10.0)


def test_slow_rounds_are_averaged_over_more_than_a_minute():
    speed = Speed(0.0, 0)
    for number in range(1, 11):
        speed.add(number * 300.0 + (100.0 if number % 2 else 0.0), number)
    assert speed.per_second == pytest.approx(1 / 300)
