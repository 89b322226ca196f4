"""The drawing of a graph."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlo.graph import Graph
from mlo.problem import Problem
from mlo.report.diagram import diagram
from mlo.report.layout import HEIGHT, layout
from mlo.report.mermaid import Arrow, Drawing, parse


def linear():
    return nn.Linear(1, 1)


def test_the_text_of_a_graph_is_read_back():
    graph = Graph(
        Problem(name="model", module=linear(), loss=lambda model, penalty: model.weight.sum()),
        Problem(name="penalty", module=linear(), loss=lambda model: model.weight.sum()),
    )
    found = parse(graph.draw())
    assert found.names == ("model", "penalty")
    assert found.rows == ((0,), (1,))
    assert set(found.arrows) == {
        Arrow(source=0, target=1, is_sweep=False),
        Arrow(source=1, target=0, is_sweep=False),
        Arrow(source=0, target=1, is_sweep=True),
    }


def test_three_levels_read_as_sentences():
    text = """flowchart BT
      subgraph level_0 [level 0]
        p_a["a"]
      end
      subgraph level_1 [level 1]
        p_b["b"]
        p_c["c"]
      end
      p_a -->|read by| p_b
      p_c -->|read by| p_b
      p_b -.->|responds to| p_a"""
    assert parse(text).sentences() == ["b reads a and c, answers to a"]


def test_what_is_no_graph_is_none():
    assert parse("") is None
    assert parse("p_a --> p_b") is None
    assert parse("\n".join(f'p_{k}["x"]' for k in range(1000))) is None


@st.composite
def drawings(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    total = sum(sizes)
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    pairs = st.tuples(st.integers(0, total - 1), st.integers(0, total - 1), st.booleans())
    arrows = draw(st.sets(pairs, max_size=12))
    return Drawing(
        names=tuple(
            draw(st.sampled_from(["a", "model", "a_long_name_of_a_problem"])) for _ in range(total)
        ),
        rows=tuple(tuple(range(s, s + n)) for s, n in zip(starts, sizes, strict=True)),
        arrows=tuple(Arrow(source=s, target=t, is_sweep=w) for s, t, w in arrows if s != t),
    )


def crosses(box, start, end):
    """Return whether a level or upright stretch passes through the inside of a box."""
    left, right = sorted((start[0], end[0]))
    top, bottom = sorted((start[1], end[1]))
    inside = 1.0
    return (
        right > box.left + inside
        and left < box.left + box.width - inside
        and bottom > box.top + inside
        and top < box.top + HEIGHT - inside
    )


@settings(max_examples=150)
@given(drawing=drawings())
def test_no_arrow_passes_behind_a_box_and_each_ends_where_it_should(drawing):
    found = layout(drawing)
    assert len(found.ways) == len(drawing.arrows)
    for arrow, way in found.ways:
        for end, number in ((way[0], arrow.source), (way[-1], arrow.target)):
            box = found.boxes[number]
            assert box.left - 0.01 <= end[0] <= box.left + box.width + 0.01
            assert box.top - 0.01 <= end[1] <= box.top + HEIGHT + 0.01
        if len(way) > 2:
            for start, end in pairwise(way):
                assert start[0] == end[0] or start[1] == end[1]
                assert not [box.name for box in found.boxes if crosses(box, start, end)]
        for x, y in way:
            assert found.left <= x <= found.right
            assert found.top <= y <= found.bottom


@settings(max_examples=150)
@given(drawing=drawings())
def test_no_two_boxes_and_no_two_ends_lie_on_each_other(drawing):
    found = layout(drawing)
    places = [(box.left, box.top) for box in found.boxes]
    assert len(set(places)) == len(places)
    for one, other in pairwise(sorted(found.boxes, key=lambda box: (box.top, box.left))):
        assert one.top != other.top or one.left + one.width < other.left
    ends = [end for _, way in found.ways for end in (way[0], way[-1])]
    assert len(set(ends)) == len(ends)


@settings(max_examples=150)
@given(drawing=drawings())
def test_no_two_arrows_share_a_level_stretch(drawing):
    stretches = [
        (start[1], *sorted((start[0], end[0])))
        for _, way in layout(drawing).ways
        for start, end in pairwise(way)
        if len(way) > 2 and start[1] == end[1]
    ]
    for (y, _, right), (other_y, left, _) in pairwise(sorted(stretches)):
        assert abs(y - other_y) > 0.5 or left >= right


@settings(max_examples=50)
@given(drawing=drawings())
def test_every_problem_and_arrow_is_drawn(drawing):
    svg = diagram(drawing)
    assert svg.count('class="box"') == len(drawing.names)
    assert svg.count('class="read"') == sum(not arrow.is_sweep for arrow in drawing.arrows)
    assert svg.count('class="sweep"') == sum(arrow.is_sweep for arrow in drawing.arrows)
