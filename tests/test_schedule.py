from hypothesis import given
from hypothesis import strategies as st

from mlo.schedule import updates_of_round, updates_per_round


@st.composite
def schedules(draw):
    num_levels = draw(st.integers(1, 4))
    levels = {}
    for level in range(num_levels):
        for position in range(draw(st.integers(1, 2))):
            levels[f"p{level}{position}"] = level
    steps = {n: draw(st.integers(1, 3)) for n in levels}
    for name, level in levels.items():
        if level == num_levels - 1:
            steps[name] = 1
    return levels, steps


@given(schedules())
def test_counts_are_those_of_the_sequence(schedule):
    levels, steps = schedule
    sequence = list(updates_of_round(levels, steps))
    assert updates_per_round(levels, steps) == {n: sequence.count(n) for n in levels}


@given(schedules())
def test_before_each_update_of_a_level_the_level_below_makes_its_steps(schedule):
    levels, steps = schedule
    sequence = list(updates_of_round(levels, steps))
    top = max(levels.values())
    assert levels[sequence[-1]] == top
    since = dict.fromkeys(levels, 0)
    previous = None
    for name in sequence:
        if levels[name] > 0 and previous is not None and levels[previous] < levels[name]:
            below = [n for n in levels if levels[n] == levels[name] - 1]
            assert {n: since[n] for n in below} == {n: steps[n] for n in below}
            since |= dict.fromkeys((n for n in levels if levels[n] < levels[name]), 0)
        since[name] += 1
        previous = name


def test_three_levels_in_order():
    sequence = updates_of_round({"t": 0, "s": 1, "c": 2}, {"t": 2, "s": 2, "c": 1})
    assert list(sequence) == ["t", "t", "s", "t", "t", "s", "c"]


def test_one_level():
    assert list(updates_of_round({"a": 0, "b": 0}, {"a": 1, "b": 1})) == ["a", "b"]
