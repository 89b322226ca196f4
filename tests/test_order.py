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


def lower_edges(reads, levels, constants):
    lower = [n for n in levels if levels[n] < levels["u"] and n not in constants]
    return {n: [a for a in reads[n] if a != n and a in lower] for n in lower}


@settings(max_examples=500)
@given(any_reads())
def test_a_sweep_visits_exactly_what_lies_on_a_walk_from_the_target_to_itself(drawn):
    reads, levels, constants = drawn
    edges = lower_edges(reads, levels, constants)
    walks = closure(edges)
    starts = [n for n in reads["u"] if n in edges]
    ends = [n for n in edges if "u" in reads[n]]
    on_the_way = {
        n
        for n in edges
        if any(s == n or (s, n) in walks for s in starts)
        and any(e == n or (n, e) in walks for e in ends)
    }
    has_circle = any((n, n) in walks for n in on_the_way)
    try:
        sweep = sweep_of("u", reads, levels, constants)
    except GraphError as error:
        assert has_circle
        told = str(error).split("in a circle, ")[1].split(", and no level")[0].split(" -> ")
        assert told[0] == told[-1]
        assert all(pair in walks for pair in pairwise(told))
        return
    assert set(sweep.flows) == set(sweep.within) == on_the_way
    assert set(sweep.order) <= on_the_way
    if not has_circle:
        assert set(sweep.order) == on_the_way
        assert not any(sweep.within.values())
    for name, flows in sweep.flows.items():
        own = {name, *sweep.within[name]}
        passed_on = {a for m in own for a in reads[m] if a in on_the_way or a == "u"} - own
        assert set(flows) == passed_on
        for above in flows if name in sweep.order else ():
            # A cotangent is complete before it is passed on.
            assert above == "u" or sweep.order.index(name) < sweep.order.index(above)


@settings(max_examples=500)
@given(any_reads())
def test_what_is_solved_within_a_problem_is_lower_and_depends_on_it(drawn):
    reads, levels, constants = drawn
    walks = closure(lower_edges(reads, levels, constants))
    try:
        sweep = sweep_of("u", reads, levels, constants)
    except GraphError:
        return
    for name, within in sweep.within.items():
        for position, lower in enumerate(within):
            assert levels[lower] < levels[name]
            assert (name, lower) in walks
            assert (lower, name) in walks
            # What its solution depends on is solved before it.
            assert not set(sweep.flows[lower]) & set(within[position:])


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
    ("reads", "within"),
    [
        ({"x": ["y"], "y": ["x", "u"], "u": ["x"]}, {"x": (), "y": ("x",)}),
        (
            {"x": ["y"], "y": ["z"], "z": ["x", "u"], "u": ["x"]},
            {"x": (), "y": (), "z": ("y", "x")},
        ),
        (
            {"d": ["c"], "c": ["b", "d"], "b": ["c", "u"], "u": ["b"]},
            {"d": (), "c": ("d",), "b": ("c", "d")},
        ),
        ({"x": ["y"], "y": ["x"], "z": ["x", "u"], "u": ["z"]}, {"z": ()}),
    ],
    ids=["two", "a chain within", "nested twice", "beside the way"],
)
def test_nested_programs(reads, within):
    levels = {n: i for i, n in enumerate(reads)}
    assert sweep_of("u", reads, levels, ()).within == within


def test_only_what_the_loss_or_a_response_asks_for_is_in_the_order():
    reads = {"x": ["y"], "y": ["x", "u"], "u": ["y"]}
    sweep = sweep_of("u", reads, {"x": 0, "y": 1, "u": 2}, ())
    assert sweep.order == ("y",)
    assert set(sweep.flows) == {"x", "y"}


@pytest.mark.parametrize(
    ("reads", "circle"),
    [
        ({"x": ["y", "u"], "y": ["x"], "u": ["x", "y"]}, {"x", "y"}),
        ({"x": ["y"], "y": ["x", "u"], "z": ["x"], "u": ["z"]}, {"x", "y"}),
        ({"x": ["y"], "y": ["z"], "z": ["x", "u"], "u": ["x"]}, {"x", "y", "z"}),
    ],
    ids=["two", "with another problem hanging on it", "three"],
)
def test_circles_on_one_level(reads, circle):
    levels = {n: int(n in "u") for n in reads}
    message = "problem 'u' cannot be differentiated: the problems below it depend on each other in"
    with pytest.raises(GraphError, match=message) as caught:
        sweep_of("u", reads, levels, ())
    told = str(caught.value).split("in a circle, ")[1].split(", and no level")[0].split(" -> ")
    assert told[0] == told[-1]
    assert set(told) == circle
