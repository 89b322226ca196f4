"""Betty's order of updates, and the steps that make it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlo import GraphError
from mlo.interop.betty.edges import Edges, levels_of
from mlo.interop.betty.execution import Period, iterations_per_round, period_of, steps_of
from mlo.schedule import updates_of_round

FORK = Edges(downwards={}, upwards={"a": ("u",), "b": ("u",)})
CHAIN = Edges(downwards={}, upwards={"t": ("c", "s"), "s": ("c",)})


@given(st.integers(1, 5), st.integers(1, 5))
def test_a_chain_nests_its_steps(inner: int, middle: int) -> None:
    period = period_of({"t": inner, "s": middle, "c": 1}, CHAIN)
    assert period.updates == (("t",) * inner + ("s",)) * middle + ("c",)
    assert period.iterations == inner * middle
    steps = {"t": inner, "s": middle, "c": 1}
    levels = levels_of("tsc", CHAIN)
    assert steps_of(period, levels) == steps
    assert iterations_per_round(steps, levels, CHAIN) == inner * middle


@given(st.integers(1, 5))
def test_equal_problems_take_turns(unroll: int) -> None:
    period = period_of({"a": unroll, "b": unroll, "u": 1}, FORK)
    assert period.updates == ("a", "b") * unroll + ("u",)
    assert steps_of(period, levels_of("abu", FORK)) == {"a": unroll, "b": unroll, "u": 1}


@pytest.mark.parametrize(("quick", "slow"), [(1, 3), (2, 3), (2, 5), (3, 4)])
def test_the_quicker_of_two_goes_on_until_the_slower_is_done(quick: int, slow: int) -> None:
    """So its steps are those of the slower one, whatever its unroll_steps."""
    period = period_of({"a": quick, "b": slow, "u": 1}, FORK)
    assert period.updates == ("a", "b") * slow + ("u",)
    assert steps_of(period, levels_of("abu", FORK)) == {"a": slow, "b": slow, "u": 1}


@st.composite
def programs(draw: st.DrawFn) -> tuple[dict[str, int], Edges]:
    names = "abcde"[: draw(st.integers(2, 5))]
    upwards: dict[str, tuple[str, ...]] = {}
    for position, name in enumerate(names[:-1]):
        above = st.lists(st.sampled_from(names[position + 1 :]), unique=True, min_size=1)
        upwards[name] = tuple(draw(above))
    unroll = {name: draw(st.integers(1, 4)) for name in draw(st.permutations(names))}
    unroll[names[-1]] = 1
    return unroll, Edges(downwards={}, upwards=upwards)


@given(programs())
def test_whatever_steps_are_found_make_bettys_order(program: tuple[dict[str, int], Edges]) -> None:
    unroll, edges = program
    period = period_of(unroll, edges)
    levels = levels_of(unroll, edges)
    assert set(period.updates) == set(unroll)
    try:
        steps = steps_of(period, levels)
    except GraphError:
        return
    rounds = period.updates.count(max(levels, key=lambda name: levels[name]))
    assert tuple(updates_of_round(levels, steps)) * rounds == period.updates


def test_an_order_that_no_steps_make() -> None:
    with pytest.raises(GraphError, match="Betty updates in the order b a u, levels and steps in"):
        steps_of(Period(updates=("b", "a", "u"), iterations=1), {"a": 0, "b": 0, "u": 1})
