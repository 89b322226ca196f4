from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from mlo_lbg.plots import (
    Panel,
    PlotError,
    Series,
    curves,
    group_by_attribute,
    load_over_time,
    save,
)


def test_curves_draw_each_seed_and_the_mean() -> None:
    series = Series(rounds=[10, 20, 30], values=[[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    panels = [
        Panel(title="losses", unit="nats", series={"gam": series}),
        Panel(title="groups", unit="share", series={"load": series, "nmi": series}, limits=(0, 4)),
    ]
    figure = curves(panels, title="search")
    losses, groups = figure.axes
    assert figure.get_suptitle() == "search"
    assert (losses.get_title(), losses.get_ylabel(), losses.get_xlabel()) == (
        "losses",
        "nats",
        "round",
    )
    assert len(losses.lines) == 3
    np.testing.assert_allclose(losses.lines[-1].get_ydata(), [2, 2, 2])
    assert groups.get_ylim() == (0, 4)
    assert [text.get_text() for text in groups.get_legend().get_texts()] == ["load", "nmi"]


def test_one_seed_is_drawn_once() -> None:
    figure = curves(
        [Panel(title="t", unit="u", series={"a": Series(rounds=[1, 2], values=[[1.0, 2.0]])})],
        title="one",
    )
    assert len(figure.axes[0].lines) == 1


def test_load_marks_equal_share_and_collapse_in_every_panel() -> None:
    loads = {f"seed {seed}": ([1, 2], [[0.25] * 4, [0.4, 0.3, 0.3, 0.0]]) for seed in range(5)}
    figure = load_over_time(loads, title="load")
    assert [axis.get_title() for axis in figure.axes] == list(loads)
    for axis in figure.axes:
        levels = [line.get_ydata()[0] for line in axis.lines[-2:]]
        assert levels == pytest.approx([1 / 4, 1 / 40])
        assert len(axis.lines) == 6


def test_heatmap_writes_counts_and_the_share_of_each_attribute_value() -> None:
    figure = group_by_attribute(
        {"k-means": [[30, 0], [10, 1234]], "unused group": [[40, 0], [0, 0]]},
        attribute="orientation",
        values=["upright", "turned"],
        title="groups",
    )
    first, second = figure.axes
    assert [text.get_text() for text in first.texts] == [
        "30\n75%",
        "0\n0%",
        "10\n25%",
        "1,234\n100%",
    ]
    assert second.texts[1].get_text() == "0\n0%"
    assert [label.get_text() for label in first.get_xticklabels()] == ["upright", "turned"]
    assert first.get_xlabel() == "orientation"


def test_save_writes_a_legible_picture(tmp_path: Path) -> None:
    figure = load_over_time({"seed 0": ([1, 2], [[0.5, 0.5], [0.7, 0.3]])}, title="load")
    path = save(figure, tmp_path / "load.png")
    height, width, _ = matplotlib.image.imread(path).shape
    assert width >= 600
    assert height >= 400


def test_what_has_the_wrong_shape_is_named() -> None:
    with pytest.raises(PlotError, match=r"values: expected 2 per seed.* got \[1, 2\]"):
        Series(rounds=[1, 2], values=[[1.0, 2.0], [1.0]])
    with pytest.raises(PlotError, match=r"loads: expected shares of shape \(2, groups\) for 'a'"):
        load_over_time({"a": ([1, 2], [[0.5, 0.5]])}, title="load")
    with pytest.raises(PlotError, match=r"counts: expected shape \(groups, 2\) for 'a'"):
        group_by_attribute({"a": [[1, 2, 3]]}, attribute="x", values=["p", "q"], title="t")
    with pytest.raises(PlotError, match="at least one panel"):
        curves([], title="none")
