"""The front is what nobody beats, and its picture can be read."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlo_lbg.frontier import Point, draw_frontier, pareto
from mlo_lbg.plots import PlotError

GRID = st.integers(0, 6).map(lambda step: step / 6)


def at(error: float, gap: float, method: str = "a") -> Point:
    return Point(method=method, errors=(error,), gaps=(gap,))


def beats(one: Point, other: Point) -> bool:
    no_worse = one.error <= other.error and one.gap <= other.gap
    return no_worse and (one.error < other.error or one.gap < other.gap)


@given(st.lists(st.builds(at, GRID, GRID), max_size=12))
def test_the_front_is_exactly_what_no_point_dominates(points: list[Point]) -> None:
    front = pareto(points)
    wanted = {
        n for n, point in enumerate(points) if not any(beats(other, point) for other in points)
    }
    assert len(front) == len(set(front))
    assert set(front) == wanted
    assert [points[n].error for n in front] == sorted(points[n].error for n in front)
    assert [-points[n].gap for n in front] == sorted(-points[n].gap for n in front)


def test_means_and_standard_errors_are_over_seeds() -> None:
    point = Point(method="a", errors=(0.1, 0.2, 0.3), gaps=(0.4, 0.4, 0.4))
    assert (point.error, point.gap) == (pytest.approx(0.2), pytest.approx(0.4))
    assert (point.error_se, point.gap_se) == (
        pytest.approx(0.1 / math.sqrt(3)),
        pytest.approx(0, abs=1e-12),
    )


@pytest.mark.parametrize(
    ("errors", "gaps", "message"),
    [
        ((), (), "at least one"),
        ((0.1,), (0.1, 0.2), "one per error"),
        ((math.nan,), (0.1,), "errors: expected finite values for 'a'"),
        ((0.1,), (math.inf,), "gaps: expected finite values for 'a'"),
    ],
)
def test_a_point_needs_both_numbers_of_every_seed(
    errors: tuple[float, ...], gaps: tuple[float, ...], message: str
) -> None:
    with pytest.raises(PlotError, match=message):
        Point(method="a", errors=errors, gaps=gaps)


def crowd(count: int, seed: int) -> list[Point]:
    random = np.random.default_rng(seed)
    return [
        Point(
            method=f"method number {n}",
            errors=list(0.15 + 0.01 * random.random() + 1e-4 * random.standard_normal(5)),
            gaps=list(0.1 + 0.05 * random.random() + 1e-3 * random.standard_normal(5)),
            emphasised=n == 0,
            told_attribute=n == 1,
        )
        for n in range(count)
    ]


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_neither_each_other_nor_a_marker(seed: int) -> None:
    points = crowd(14, seed)
    axis = drawn(draw_frontier(points, title="demo")).axes[0]
    assert {text.get_text() for text in axis.texts} == {point.method for point in points}
    boxes = [text.get_window_extent() for text in axis.texts]
    # Of an annotation with a line the extent includes the line: only the text is meant.
    boxes = [super(type(text), text).get_window_extent() for text in axis.texts]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    frame = axis.get_window_extent()
    for box in boxes:
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1
        for x, y in axis.transData.transform([(point.error, point.gap) for point in points]):
            assert not box.contains(x, y)


def test_the_front_is_drawn_as_steps_over_its_points() -> None:
    points = [at(0.1, 0.3), at(0.2, 0.1), at(0.3, 0.2)]
    axis = drawn(draw_frontier(points, title="demo")).axes[0]
    line = next(line for line in axis.lines if line.get_linestyle() == "--")
    corners = list(zip(*line.get_data(), strict=True))
    top, right = axis.get_ylim()[1], axis.get_xlim()[1]
    assert dict.fromkeys(corners) == dict.fromkeys(
        [(0.1, top), (0.1, 0.3), (0.2, 0.3), (0.2, 0.1), (right, 0.1)]
    )


def test_emphasis_and_use_of_the_attribute_can_be_seen_in_grey() -> None:
    points = crowd(4, 0)
    figure = drawn(draw_frontier(points, title="demo"))
    markers = [
        line for line in figure.axes[0].lines if line.get_marker() not in ("", "None", "|", "_")
    ]
    ours, told, *others = markers
    assert len({line.get_marker() for line in markers}) == 4
    assert ours.get_markersize() > others[0].get_markersize()
    assert told.get_markerfacecolor() == "white"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["Pareto front", "told the attribute at test", "± standard error over seeds"]
    alone = drawn(draw_frontier([at(0.1, 0.1)], title="demo"))
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["Pareto front"]


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(PlotError, match="at least one method"):
        draw_frontier([], title="demo")
