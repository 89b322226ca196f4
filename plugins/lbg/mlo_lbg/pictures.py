"""The three pictures of a comparison."""

import math
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from mlo.record import Record
from mlo_lbg import plots
from mlo_lbg.comparison import Run
from mlo_lbg.diagnosis import Diagnosis
from mlo_lbg.frontier import Point, draw_frontier
from mlo_lbg.plots import Panel, Series

Quantity = Callable[[Diagnosis], float]

_DIAGNOSTICS: Sequence[tuple[str, str, Quantity, tuple[float, float] | None]] = (
    ("validation loss", "nats", lambda d: d.validation_loss, None),
    ("NMI of group and attribute", "share", lambda d: d.nmi_attribute, (-0.02, 1.02)),
    ("agreement of the GAM with C", "share", lambda d: d.agreement, (-0.02, 1.02)),
    ("confidence E of the GAM", "mean probability", lambda d: d.confidence, (-0.02, 1.02)),
    ("rows of C that changed group", "share per epoch", lambda d: d.flip_rate, None),
    ("entropy of the rows of C", "nats", lambda d: d.row_entropy, None),
)


def draw(runs: Sequence[Run], record: Record, *, attribute: str, values: Sequence[str]) -> None:
    """Write `curves.png`, `load.png` and `groups.png`, as far as there is something to draw.

    Args:
        runs: All runs of a comparison.
        record: Whose directory takes the pictures.
        attribute: Name of the sensitive attribute.
        values: Name of each of its values.
    """
    searched = _distinct(_by_method([run for run in runs if run.history]))
    if searched:
        panels = [
            Panel(
                title=title,
                unit=unit,
                limits=limits,
                series={own[0].title: _series(own, quantity) for own in searched.values()},
            )
            for title, unit, quantity, limits in _DIAGNOSTICS
        ]
        figure = plots.curves(panels, title="Search for groups, one faint line per seed")
        _keep(figure, "curves", record)
        loads = {
            f"{run.title}, seed {run.seed}": (
                [d.round for d in run.history],
                [d.load for d in run.history],
            )
            for run in runs
            if run.method in searched and run.seed == 0
        }
        figure = plots.load_over_time(loads, title="Share of the training half in each group")
        _keep(figure, "load", record)
    grouped = {
        run.title: run.evaluation.groups.by_attribute
        for run in runs
        if run.evaluation.groups is not None and run.seed == 0
    }
    if grouped:
        figure = plots.group_by_attribute(
            grouped,
            attribute=attribute,
            values=values,
            title=f"Test examples by group and {attribute}, seed 0",
        )
        _keep(figure, "groups", record)


def draw_frontiers(runs: Sequence[Run], record: Record, *, attribute: str) -> None:
    """Write `frontier.png`: error against DEO of the methods for which both are always known.

    Args:
        runs: All runs of a comparison.
        record: Whose directory takes the picture.
        attribute: Name of the sensitive attribute.
    """
    points = [
        Point(
            method=own[0].title,
            errors=[run.evaluation.fairness.error for run in own],
            gaps=[run.evaluation.fairness.equalized_odds.mean for run in own],
            emphasised=bool(own[0].history),
            told_attribute=own[0].evaluation.told_attribute,
        )
        for own in _by_method(runs).values()
        if all(math.isfinite(run.evaluation.fairness.equalized_odds.mean) for run in own)
    ]
    if len(points) > 1:
        _keep(draw_frontier(points, title=f"Error and DEO by {attribute}"), "frontier", record)


def _keep(figure: Figure, name: str, record: Record) -> None:
    path = record.path(f"{name}.png")
    plots.save(figure, path)
    record.image(name, path, step=None)


def _by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.method, []).append(run)
    return found


def _distinct(searched: dict[str, list[Run]]) -> dict[str, list[Run]]:
    """Leave out a method whose searches are those of an earlier one: it would hide it."""
    found: dict[str, list[Run]] = {}
    for method, runs in searched.items():
        histories = [run.history for run in runs]
        if histories not in [[run.history for run in other] for other in found.values()]:
            found[method] = runs
    return found


def _series(runs: Sequence[Run], quantity: Quantity) -> Series:
    # With early stopping seeds end at different epochs; the mean is drawn as far as all go.
    points = min(len(run.history) for run in runs)
    return Series(
        rounds=[d.round for d in runs[0].history[:points]],
        values=[[quantity(d) for d in run.history[:points]] for run in runs],
    )
