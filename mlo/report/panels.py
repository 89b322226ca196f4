"""Which curves share a panel, and how each panel is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from matplotlib.figure import Figure

from mlo.report.averaging import Averaged, average, split_seed
from mlo.report.collected import Curve
from mlo.report.drawing import Line, draw_lines, draw_rows, draw_shares
from mlo.report.groups import Group
from mlo.report.styles import MOST, NUM_COLOURS

Drawing: TypeAlias = Callable[[Sequence[Line], str], tuple[Figure, str]]
"""From lines and the name of the horizontal axis to a figure and a remark."""

_SEPARATOR: Final = " · "
_SEEDS: Final = 4


class Owner(NamedTuple):
    """Whose curve it is: a group of runs and a scope without its seed."""

    group: str
    scope: str

    @property
    def label(self) -> str:
        """Its name, empty where there is one group without scopes."""
        return _SEPARATOR.join(filter(None, self))


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """One number over time.

    Attributes:
        name: As recorded.
        axis: What the horizontal axis counts.
        undefined: How many infinite and undefined values were left out.
        curves: By owner, averaged over seeds.
        seeds: By owner, then by seed.
    """

    name: str
    axis: str
    undefined: int
    curves: Mapping[Owner, Averaged]
    seeds: Mapping[Owner, Mapping[str, Averaged]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Lines that are drawn together.

    Attributes:
        title: Their common name.
        axis: What the horizontal axis counts.
        lines: One or more.
        draw: How.
        remark: What is left out.
        is_numbered: Whether they are the items of one list, as the loads of groups are.
    """

    title: str
    axis: str
    lines: tuple[Line, ...]
    draw: Drawing
    remark: str
    is_numbered: bool = False


def metrics_of(groups: Sequence[Group]) -> list[Metric]:
    """Return everything that was recorded over time, averaged over seeds, in recorded order."""
    gathered: dict[str, dict[Owner, list[tuple[str, Curve]]]] = {}
    for group in groups:
        for number, run in enumerate(group.runs):
            for (scope, name), curve in run.collected.curves.items():
                base, seed = split_seed(scope)
                parts = [run.name if len(group.runs) > 1 else "", seed or ""]
                entry = gathered.setdefault(name, {}).setdefault(Owner(group.label, base), [])
                entry.append((" ".join(filter(None, parts)) or str(number), curve))
    return [_metric(name, owners) for name, owners in gathered.items()]


def _metric(name: str, owners: Mapping[Owner, Sequence[tuple[str, Curve]]]) -> Metric:
    curves = [curve for members in owners.values() for _, curve in members]
    points = {o: [(s, c.points) for s, c in own if c.points.count] for o, own in owners.items()}
    return Metric(
        name=name,
        axis=curves[0].axis,
        undefined=sum(curve.undefined for curve in curves),
        curves={o: average(own) for o, own in points.items() if own},
        seeds={o: {s: average([(s, c)]) for s, c in own} for o, own in points.items() if own},
    )


def is_constant(metric: Metric) -> bool:
    """Return whether each curve of a metric has one value throughout: nothing to draw."""
    return all(
        len({float(v) for m in curve.members for v in (m.values.min(), m.values.max())}) == 1
        for curve in metric.curves.values()
    )


def panels_of(metrics: Sequence[Metric]) -> tuple[list[Panel], list[Metric]]:
    """Return the panels of metrics, and the metrics that are constant, of which none is drawn.

    A metric has a panel, or shares one with all that have the same name but for its last part.
    Where metrics ``loss/a`` and ``loss/b`` have several owners each, the owners are what is to be
    compared, so each metric has a panel. Numbered ones (``load/0``, ``load/1``) have a panel for
    each seed of each owner: groups are found in another order by every seed, so that the mean of
    all first groups means nothing.
    """
    drawn: list[list[Metric]] = []
    constant: list[Metric] = []
    for family in families_of(metrics).values():
        flat = [metric for metric in family if is_constant(metric)]
        # A group that holds nothing throughout is still one of its family.
        if are_numbered(family) and len(flat) < len(family):
            flat = []
        constant += flat
        moving = [metric for metric in family if metric not in flat]
        if moving:
            drawn.append(moving)
    looks: dict[Owner, int] = {}
    for metric in (metric for family in drawn for metric in family):
        for owner in metric.curves:
            looks.setdefault(owner, len(looks))
    return [panel for family in drawn for panel in _panels(family, looks)], constant


def families_of(metrics: Sequence[Metric]) -> dict[str, list[Metric]]:
    """Return metrics that have curves, together where they share all but the last of their name."""
    families: dict[str, list[Metric]] = {}
    for metric in metrics:
        if metric.curves:
            prefix, _, _ = metric.name.rpartition("/")
            # A metric without a prefix is alone, even if others have its name as theirs.
            families.setdefault(prefix or f"/{metric.name}", []).append(metric)
    return families


def are_numbered(family: Sequence[Metric]) -> bool:
    """Return whether metrics that share a first name are the items of one list."""
    return len(family) > 1 and all(m.name.rpartition("/")[2].isdecimal() for m in family)


def _panels(family: list[Metric], looks: Mapping[Owner, int]) -> list[Panel]:
    owners = list(dict.fromkeys(owner for metric in family for owner in metric.curves))
    if are_numbered(family):
        return [panel for owner in owners for panel in _numbered(family, owner, len(owners))]
    if len(family) > 1 and len(owners) == 1:
        return [_shared(family, owners[0])]
    return [_compared(metric, looks) for metric in family]


def _compared(metric: Metric, looks: Mapping[Owner, int]) -> Panel:
    lines = [
        Line(label=owner.label, curve=curve, look=looks[owner])
        for owner, curve in metric.curves.items()
    ]
    return _panel(metric.name, metric.axis, lines, draw_lines, metric.undefined)


def _shared(family: list[Metric], owner: Owner) -> Panel:
    lines = [
        Line(label=metric.name.rpartition("/")[2], curve=metric.curves[owner], look=look)
        for look, metric in enumerate(family)
    ]
    undefined = sum(metric.undefined for metric in family)
    return _panel(_prefix(family), family[0].axis, lines, draw_lines, undefined)


def _numbered(family: list[Metric], owner: Owner, num_owners: int) -> list[Panel]:
    own = [metric for metric in family if owner in metric.curves]
    seeds = list(dict.fromkeys(seed for metric in own for seed in metric.seeds[owner]))
    panels: list[Panel] = []
    for seed in seeds[:_SEEDS]:
        lines = [
            Line(label=metric.name.rpartition("/")[2], curve=metric.seeds[owner][seed], look=look)
            for look, metric in enumerate(own)
            if seed in metric.seeds[owner]
        ]
        draw: Drawing = draw_lines
        if len(lines) > NUM_COLOURS:
            draw = draw_rows
        elif _add_up([line.curve for line in lines]):
            draw = draw_shares
        names = (_prefix(family), owner.label if num_owners > 1 else "")
        title = _SEPARATOR.join(filter(None, (*names, f"seed {seed}" if len(seeds) > 1 else "")))
        undefined = 0 if panels else sum(metric.undefined for metric in own)
        panel = _panel(title, own[0].axis, lines, draw, undefined)
        panels.append(replace(panel, is_numbered=True))
    if len(seeds) > _SEEDS:
        cut = f"the first {_SEEDS} of {len(seeds):,} seeds"
        remark = "; ".join(filter(None, (panels[-1].remark, cut)))
        panels[-1] = replace(panels[-1], remark=remark)
    return panels


def _prefix(family: Sequence[Metric]) -> str:
    return family[0].name.rpartition("/")[0]


def _panel(title: str, axis: str, lines: list[Line], draw: Drawing, undefined: int) -> Panel:
    remarks = []
    if draw is draw_lines and len(lines) > MOST:
        remarks.append(f"the first {MOST} of {len(lines):,} lines")
        lines = lines[:MOST]
    if undefined:
        remarks.append(f"{undefined:,} infinite or undefined left out")
    return Panel(title=title, axis=axis, lines=tuple(lines), draw=draw, remark="; ".join(remarks))


def _add_up(curves: Sequence[Averaged]) -> bool:
    """Return whether curves are shares: recorded together, never negative, with a constant sum."""
    first = curves[0].steps
    if len(first) < 2 or any(not np.array_equal(first, curve.steps) for curve in curves):
        return False
    values = np.stack([curve.mean for curve in curves])
    if not np.isfinite(values).all() or values.min() < 0:
        return False
    with np.errstate(over="ignore"):
        sums = values.sum(0)
    return bool(sums.min() > 0 and sums.max() <= 1.01 * sums.min() and sums.max() < 1e30)
