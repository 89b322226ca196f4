"""Panels: which there are, how they are drawn, and what is left of matplotlib's SVG."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.report.axes import Ticks, is_logarithmic, reduced
from mlo.report.collected import Collected
from mlo.report.drawing import draw_lines, draw_rows, draw_shares
from mlo.report.faults import Faults
from mlo.report.groups import Group
from mlo.report.panels import metrics_of, panels_of
from mlo.report.styles import CLASSES, MOST, colour, dash, marker
from mlo.report.svg import svg_of
from tests.report.runs import scalars


class Run:
    name = "run"

    def __init__(self, *values):
        self.collected = Collected(Faults())
        for each in values:
            self.collected.add(1, each)
        self.collected.finish()


def panels(*values):
    return panels_of(metrics_of([Group(label="", runs=(Run(*values),))]))


def numbered(rows, **options):
    return [
        {**scalars(step, **options), "values": {f"load/{k}": v for k, v in enumerate(row)}}
        for step, row in enumerate(rows)
    ]


def test_numbers_that_add_up_are_areas():
    [panel], _ = panels(*numbered([(0.25, 0.75), (0.5, 0.5)]))
    assert panel.draw is draw_shares


@pytest.mark.parametrize("rows", [[(0.25, 0.75), (0.5, 0.75)], [(-1, 2), (0, 1)]])
def test_numbers_that_do_not_are_lines(rows):
    [panel], _ = panels(*numbered(rows))
    assert panel.draw is draw_lines


def test_many_numbers_are_rows():
    [panel], _ = panels(*numbered([range(20), range(1, 21)]))
    assert panel.draw is draw_rows


def test_a_group_that_stays_empty_is_still_one_of_its_family():
    [panel], constant = panels(*numbered([(0, 0.25, 0.75), (0, 0.5, 0.5)]))
    assert [line.label for line in panel.lines] == ["0", "1", "2"]
    assert panel.draw is draw_shares
    assert constant == []


def test_an_owner_looks_the_same_on_every_panel():
    values = [scalars(s, scope, a=s, b=s) for scope in ("x", "y") for s in range(2)]
    found, _ = panels(*values, *[scalars(s, "y", c=s) for s in range(2)])
    looks = {(line.label, line.look) for panel in found for line in panel.lines}
    assert looks == {("x", 0), ("y", 1)}


def test_more_lines_than_looks_are_cut_and_it_is_said():
    values = [scalars(s, f"m{k}", a=s + k) for k in range(MOST + 3) for s in range(2)]
    [panel], _ = panels(*values)
    assert len(panel.lines) == MOST
    assert panel.remark == f"the first {MOST} of {MOST + 3} lines"


def test_looks_differ_without_colour_and_with_it():
    assert len({(marker(k), dash(k)) for k in range(MOST)}) == MOST
    assert len({(colour(k), dash(k)) for k in range(MOST)}) == MOST


@pytest.mark.parametrize(
    "values",
    [
        [scalars(s, f"m/seed-{k}", a=s + k) for k in range(2) for s in range(5)],
        numbered([(0.25, 0.75), (0.5, 0.5)]),
        numbered([range(20), range(1, 21)]),
        [scalars(s, a=10.0**-s) for s in range(6)],
        [scalars(s, scope, a=s) for scope in ("x", "y") for s in range(1 + (scope == "y"))],
    ],
    ids=["seeds", "areas", "rows", "logarithmic", "one point"],
)
def test_a_drawing_has_no_style_no_colour_and_only_ids_of_its_own(values):
    [panel], _ = panels(*values)
    text = svg_of(panel.draw(panel.lines, panel.axis)[0], prefix="mine", label='a "b" <c>')
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'a "b" <c>'
    assert not re.search(r"style|xmlns|xlink|metadata|#[0-9a-f]{6}|http", text)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert all(each.startswith("mine-") for each in ids)
    assert len(set(ids)) == len(ids)
    targets = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert set(targets) == set(ids)
    known = {f"{kind}-{name}" for kind in "fs" for name in CLASSES.values()}
    classes = {c for e in root.iter() for c in (e.get("class") or "").split()} - {"plot"}
    assert classes <= known
    assert classes & known


def test_text_of_a_drawing_is_text():
    [panel], _ = panels(*[scalars(s, a=s) for s in range(5)])
    root = ElementTree.fromstring(
        svg_of(panel.draw(panel.lines, panel.axis)[0], prefix="p", label="l")
    )
    texts = [element.text for element in root.iter("text")]
    assert "step" in texts
    assert "4" in texts


def test_a_long_curve_is_drawn_small():
    values = np.random.default_rng(0).normal(size=20_000).tolist()
    [panel], _ = panels(*[scalars(s, a=v) for s, v in enumerate(values)])
    text = svg_of(panel.draw(panel.lines, panel.axis)[0], prefix="p", label="l")
    assert len(text) < 20_000


@settings(max_examples=100)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), most=st.integers(10, 60))
def test_fewer_points_keep_ends_and_extremes(values, most):
    steps, kept = reduced(np.arange(float(len(values))), np.array(values), most)
    assert len(steps) <= max(most, 1)
    assert (kept.min(), kept.max()) == (min(values), max(values))
    assert (steps[0], steps[-1]) == (0, len(values) - 1)


@settings(max_examples=200)
@given(
    start=st.integers(-20, 20),
    unit=st.sampled_from(
        [1e-6, 1e-3, 0.01, 0.02, 0.025, 0.1, 0.15, 0.25, 1, 2, 2.5, 50, 250, 5e4, 2e6]
    ),
    count=st.integers(2, 7),
)
def test_tick_labels_are_what_they_stand_at(start, unit, count):
    ticks = [(start + k) * unit for k in range(count)]
    labels = Ticks().format_ticks(ticks)
    assert len(set(labels)) == count
    for tick, label in zip(ticks, labels, strict=True):
        number = label.replace("−", "-").replace(",", "").replace("k", "e3").replace("M", "e6")
        assert abs(float(number) - tick) <= 2e-3 * max(abs(tick), unit)


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ([np.geomspace(1, 1e-4, 50)], True),
        ([np.full(9, 1.0), np.full(9, 1e-3)], True),
        ([np.linspace(1, 2, 50)], False),
        ([np.r_[np.ones(99), 1e-9]], False),
        ([np.linspace(0, 1, 50)], False),
        ([], False),
    ],
)
def test_an_axis_is_logarithmic_where_most_would_be_hidden(curves, expected):
    assert is_logarithmic(curves) is expected
