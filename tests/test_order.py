from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo import GraphError
from mlo.order import sweep_of

READS = {"t": ["t", "c"], "s": ["s", "t"], "c": ["s", "t"]}
LEVELS = {"t": 0, "s": 1, "c": 2}


@st.composite
def any_reads(draw):
    """Any graph on up to six problems, circles and loose ends included; ``u`` is the target."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 5)))] + ["u"]
    levels = {n: draw(st.integers(0, 2)) for n in names[:-1]} | {"u": draw(st.integers(1, 3))}
    reads = {n: draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) for n in names}
    constants = draw(st.lists(st.sampled_from(names[:-1]), unique=True, max_size=1))
    return reads, levels, constants


def closure(edges):
    """Pairs (a, b) with a non-empty walk from a to b."""
    walks = {(a, b) for a in edges for b in edges[a]}
    while True:
        longer = walks | {(a, d) for a, b in walks for c, d in walks if b == c}
        if longer == walks:
            return walks
        walks = longer


@settings(max_examples=300)
@given(any_reads())
def test_a_sweep_visits_exactly_what_lies_on_a_walk_from_the_target_to_itself(drawn):
    reads, levels, constants = drawn
    lower = [n for n in levels if levels[n] < levels["u"] and n not in constants]
    edges = {n: [a for a in reads[n] if a != n and a in lower] for n in lower}
    walks = closure(edges)
    starts = [n for n in reads["u"] if n in lower]
    ends = [n for n in lower if "u" in reads[n]]
    on_the_way = {
        n
        for n in lower
        if any(s == n or (s, n) in walks for s in starts)
        and any(e == n or (n, e) in walks for e in ends)
    }
    if any((n, n) in walks for n in on_the_way):
        with pytest.raises(GraphError) as caught:
            sweep_of("u", reads, levels, constants)
        told = str(caught.value).split("in a circle, ")[1].split(" (each")[0].split(" -> ")
        assert told[0] == told[-1]
        assert all(later in edges[earlier] for earlier, later in pairwise(told))
        return
    sweep = sweep_of("u", reads, levels, constants)
    assert set(sweep.order) == on_the_way
    assert len(sweep.order) == len(on_the_way)
    for name in sweep.order:
        passed_on = {a for a in reads[name] if a in on_the_way or a == "u"} - {name}
        assert set(sweep.flows[name]) == passed_on
        for above in sweep.flows[name]:
            # A cotangent is complete before it is passed on.
            assert above == "u" or sweep.order.index(name) < sweep.order.index(above)


def test_the_highest_level_goes_first_where_the_reads_leave_a_choice():
    reads = {n: [n, "u"] for n in ("low", "middle", "high")} | {"u": ["low", "high", "middle"]}
    levels = {"low": 0, "middle": 1, "high": 2, "u": 3}
    assert sweep_of("u", reads, levels, ()).order == ("high", "middle", "low")


def test_learning_by_grouping():
    sweep = sweep_of("c", READS, LEVELS, ())
    assert sweep.order == ("s", "t")
    assert sweep.flows == {"s": ("t",), "t": ("c",)}


def test_a_constant_problem_is_not_visited():
    assert sweep_of("c", READS, LEVELS, ["s"]).order == ("t",)
    assert sweep_of("c", READS, LEVELS, ["t"]).order == ()


def test_problems_of_the_same_level_do_not_respond():
    assert sweep_of("c", READS, {"t": 0, "s": 1, "c": 1}, ()).order == ("t",)
    assert sweep_of("c", READS, {"t": 1, "s": 1, "c": 1}, ()).order == ()


@pytest.mark.parametrize(
    ("reads", "circle"),
    [
        ({"x": ["y"], "y": ["x", "u"], "u": ["x"]}, "y -> x -> y"),
        ({"x": ["y"], "y": ["z"], "z": ["x", "u"], "u": ["x"]}, "z -> x -> y -> z"),
        ({"x": ["y"], "y": ["x"], "z": ["x", "u"], "u": ["z"]}, None),
        ({"x": ["y", "u"], "y": ["x"], "z": ["u"], "u": ["z", "y"]}, "y -> x -> y"),
    ],
    ids=["two", "three", "beside the way", "with another problem hanging on it"],
)
def test_circles(reads, circle):
    levels = {n: i for i, n in enumerate(reads)}
    if circle is None:
        # x and y read each other, and z reads x, but neither depends on the target.
        assert sweep_of("u", reads, levels, ()).order == ("z",)
        return
    message = "problem 'u' cannot be differentiated: the problems below it read each other in a"
    with pytest.raises(GraphError, match=message) as caught:
        sweep_of("u", reads, levels, ())
    walk = circle.split(" -> ")
    told = str(caught.value).split("in a circle, ")[1].split(" (each")[0].split(" -> ")
    assert len(told) == len(walk)
    assert set(told) == set(walk)
