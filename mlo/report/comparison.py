"""Numbers of several owners side by side: means over seeds with their standard errors."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mlo.report.averaging import Estimate, estimate_of
from mlo.report.grids import Cell, Grid, estimates
from mlo.report.groups import Difference, Group, differences
from mlo.report.panels import Metric, Owner, are_numbered, families_of
from mlo.report.result import SEPARATOR, numbers_of
from mlo.report.run import Run

_ROWS, _COLUMNS = 300, 60
_LAST: Final = "Last value of each curve"


def results_compared(groups: Sequence[Group]) -> Grid | None:
    """Return the numbers of the results, a column a group; None unless there are two runs."""
    if sum(len(group.runs) for group in groups) < 2:
        return None
    rows: dict[str, list[Estimate | None]] = {}
    found = [[dict(numbers_of(run.result)) for run in group.runs] for group in groups]
    names = dict.fromkeys(name for runs in found for numbers in runs for name in numbers)
    for name in list(names)[:_ROWS]:
        values = [[numbers[name] for numbers in runs if name in numbers] for runs in found]
        rows[name] = [_over_runs(own) if own else None for own in values]
    if not rows:
        return None
    labels = [group.label or "all runs" for group in groups]
    common = _common(list(rows))
    shown = {name.removeprefix(common): row[:_COLUMNS] for name, row in rows.items()}
    return estimates("Results", "quantity", labels[:_COLUMNS], shown)


def last_values(metrics: Sequence[Metric], *, caption: str = _LAST) -> Grid | None:
    """Return the newest value of every curve, a column an owner; None if there is no curve.

    Of numbered metrics the largest is taken for each seed: their order differs from seed to seed.
    """
    owners = list(dict.fromkeys(owner for metric in metrics for owner in metric.curves))
    owners = owners[:_COLUMNS]
    rows: dict[str, list[Estimate | None]] = {}
    for prefix, family in families_of(metrics).items():
        if are_numbered(family):
            name = f"{prefix}, largest of {len(family):,}"
            rows[name] = [_largest(family, owner) for owner in owners]
        else:
            rows |= {metric.name: [_last(metric, owner) for owner in owners] for metric in family}
    rows = dict(list(rows.items())[:_ROWS])
    labels = [owner.label or "last value" for owner in owners]
    return estimates(caption, "metric", labels, rows) if rows else None


def constants(metrics: Sequence[Metric]) -> Grid | None:
    """Return the value of every curve that has only one; None if there is none."""
    grid = last_values(metrics, caption="Constant throughout")
    if grid is None:
        return None
    plain = [[replace(c, text=c.text.removesuffix(" ± 0")) for c in row] for row in grid.rows]
    return replace(grid, rows=tuple(map(tuple, plain)))


def differing(runs: Sequence[Run]) -> Grid | None:
    """Return the keys of the configurations that differ, a column a run; None if none does."""
    found: tuple[Difference, ...] = differences(runs)
    if not found:
        return None
    return Grid(
        caption="Keys that differ",
        columns=("key", *(run.name for run in runs[:_COLUMNS])),
        rows=tuple(
            (Cell(text=each.key), *(Cell(text=text) for text in each.values[:_COLUMNS]))
            for each in found[:_ROWS]
        ),
        note=f"the first {_ROWS} of {len(found):,} keys" if len(found) > _ROWS else "",
    )


def _over_runs(values: Sequence[Estimate]) -> Estimate:
    """Return the mean over runs; of a single one, what it says itself."""
    return values[0] if len(values) == 1 else estimate_of([value.mean for value in values])


def _common(names: Sequence[str]) -> str:
    """Return the first part of paths, with what ends it, if all have it; it says nothing then."""
    first = names[0].partition(SEPARATOR)[0] + SEPARATOR
    return first if all(name.startswith(first) for name in names) else ""


def _largest(family: Sequence[Metric], owner: Owner) -> Estimate | None:
    """Return the mean over seeds of the largest newest value of a numbered family."""
    newest: dict[str, list[float]] = {}
    for metric in family:
        for seed, curve in metric.seeds.get(owner, {}).items():
            newest.setdefault(seed, []).append(curve.last.mean)
    return estimate_of([max(values) for values in newest.values()]) if newest else None


def _last(metric: Metric, owner: Owner) -> Estimate | None:
    curve = metric.curves.get(owner)
    return None if curve is None else curve.last
