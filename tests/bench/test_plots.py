import json
from itertools import pairwise

import pytest

from mlo.bench import plots
from mlo.bench.plots import BETTY, MLO, draw

METHODS = ("finite difference", "Neumann K=5", "CG K=5")


def upper_step(*, betty=1.5):
    rows = [
        {"what": what, "program": program, "parameters": size, "method": method, MLO: 1.0}
        | {BETTY: betty}
        for size in ("94k", "1M")
        for program in ("reweighting", "input scaling")
        for method in METHODS
        for what in ("upper step", "round")
    ]
    quartiles = [{"row": 0, "column": MLO, "lower": 0.9, "upper": 1.1}]
    return {"rows": rows, "ratios": quartiles}


def levels(*, betty=4.0):
    return {"rows": [{"levels": n, f"{MLO} (ms)": 1.0, f"{BETTY} (ms)": betty} for n in (3, 4)]}


def curve(solver, family, values):
    return {"size": "big", "family": family, "solver": solver} | {
        "points": [32, 64],
        "values": values,
    }


def quadratic():
    return {
        "curves": [
            curve("warm_started(identity())", MLO, [[0.5, 0.1], [0.7, 0.3]]),
            curve("identity()", MLO, [[0.6, 0.4]]),
            curve("finite_difference()", MLO, [[0.6, 0.401]]),
            curve("SOBA", "anew", [[0.8, 0.7]]),
            curve("SOBA", "anew, tuned", [[0.5, 0.2]]),
        ],
        "published": [{"size": "big", "solver": "AmIGO", "relative": {"64": 0.5, "256": 0.1}}],
    }


def accuracy():
    point = {"stage": "solved", "family": "cg", "evaluations": 3, "relative error": 0.5}
    return {"rows": [point, point | {"evaluations": 10, "relative error": 0.1}]}


DOCUMENTS = {
    "accuracy": accuracy,
    "upper_step": upper_step,
    "levels": levels,
    "quadratic_curves": quadratic,
}


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def dots(axis, colour):
    return [
        float(line.get_ydata()[0])
        for line in axis.lines
        if line.get_marker() == "o" and line.get_color() == colour
    ]


def test_every_picture_has_a_document_here():
    assert DOCUMENTS.keys() == plots.PICTURES.keys()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_pictures_are_written_as_png(name, tmp_path):
    (tmp_path / f"{name}.json").write_text(json.dumps(DOCUMENTS[name]()))
    (path,) = draw(tmp_path, tmp_path / "pictures")
    assert path == tmp_path / "pictures" / f"{name}.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_files_that_are_not_results_are_left_alone(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    assert draw(tmp_path, tmp_path) == []


def test_nothing_is_drawn_of_nothing(tmp_path):
    for name, empty in {
        "accuracy": {"rows": []},
        "upper_step": {"rows": [], "ratios": []},
        "levels": {"rows": []},
        "quadratic_curves": {"curves": [], "published": []},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(empty))
    assert draw(tmp_path, tmp_path) == []


def test_each_dot_is_one_program_and_rounds_are_left_out():
    figure = plots.upper_step(upper_step())
    assert [axis.get_title() for axis in figure.axes] == ["94k parameters", "1M parameters"]
    for axis in figure.axes:
        assert axis.get_yscale() == "log"
        assert dots(axis, plots._MLO) == [1.0] * 6
        assert dots(axis, plots._PEER) == [1.5] * 6
    assert texts(figure) == ["mlo", "Betty"]


def test_bars_are_the_quartiles():
    axis = plots.upper_step(upper_step()).axes[0]
    spans = [tuple(line.get_ydata()) for line in axis.lines if line.get_alpha() == 0.6]
    assert (0.9, 1.1) in spans


@pytest.mark.parametrize("missing", [None, "not installed"])
def test_a_peer_that_was_not_measured_is_not_drawn(missing):
    figure = plots.upper_step(upper_step(betty=missing))
    assert texts(figure) == ["mlo"]
    assert texts(plots.levels(levels(betty=missing))) == ["mlo: each problem is visited once"]


def test_levels_are_on_a_logarithmic_axis():
    (axis,) = plots.levels(levels()).axes
    assert axis.get_yscale() == "log"
    assert [list(line.get_ydata()) for line in axis.lines] == [[1.0, 1.0], [4.0, 4.0]]


def test_curves_are_means_and_published_ones_dashed():
    (axis,) = plots.quadratic(quadratic()).axes
    best = next(line for line in axis.lines if line.get_linewidth() > 2)
    assert list(best.get_ydata()) == pytest.approx([0.6, 0.2])
    (dashed,) = (line for line in axis.lines if line.get_linestyle() == "--")
    assert dashed.get_xdata().tolist() == [64, 256]


def test_lines_that_agree_share_a_name_and_published_steps_are_shown_once():
    assert set(texts(plots.quadratic(quadratic()))) == {
        "AmIGO",
        "SOBA, tuned here",
        "mlo warm_started",
        "mlo identity = finite_difference",
    }


def test_names_at_the_ends_do_not_overlap():
    document = quadratic()
    document["curves"] = [
        curve(name, MLO, [[0.5, 0.1 + shift]])
        for name, shift in (("identity", 0.0), ("neumann", 0.005), ("cg", 0.01))
    ]
    figure = plots.quadratic(document)
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text() != "AmIGO"]
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))
