"""The sections of the page, each from all runs."""

from collections.abc import Sequence
from dataclasses import replace

from mlo.report.comparison import constants, differing, last_values, results_compared
from mlo.report.diagram import diagram
from mlo.report.grids import Grid, cell, records
from mlo.report.groups import Group, repeated
from mlo.report.histograms import distributions_of
from mlo.report.mermaid import parse
from mlo.report.overview import facts_of, overview_of, program_of, state_of
from mlo.report.page import GraphView, Page, Section, TextView
from mlo.report.panels import Metric, Panel, metrics_of, panels_of
from mlo.report.pictures import pictures_of
from mlo.report.plots import distribution_plots, plots_of
from mlo.report.result import grids_of, headline_of
from mlo.report.run import Run
from mlo.report.wording import clean, counted, number

_TABLES, _GRAPHS, _ROWS = 60, 8, 200
_TEXT, _OPEN_LINES, _NAMED = 40_000, 30, 8


def page_of(groups: Sequence[Group]) -> Page:
    """Return the page of runs in groups."""
    runs = tuple(run for group in groups for run in group.runs)
    metrics = metrics_of(groups)
    panels, constant = panels_of(metrics)
    numbered = [panel for panel in panels if panel.is_numbered]
    curves = [panel for panel in panels if not panel.is_numbered]
    averaged = any(len(c.members) > 1 for metric in metrics for c in metric.curves.values())
    sections = (
        _results(groups, runs),
        _curves(curves, runs[0], averaged=averaged),
        _groups(numbered, runs[0]),
        _comparison([metric for metric in metrics if metric not in constant], constant),
        _histograms(groups, runs[0]),
        Section(id="images", title="Images", pictures=tuple(pictures_of(runs))),
        _tables(runs),
        _graph(runs),
        _configuration(runs),
    )
    alone = runs[0] if len(runs) == 1 else None
    programs = list(dict.fromkeys(filter(None, map(program_of, runs))))
    return Page(
        title=_title(runs, programs),
        kicker="mlo run" if alone else f"mlo · {counted(len(runs), 'run')}",
        state=state_of(alone) if alone else "",
        headline=headline_of(alone.result) if alone else "",
        facts=facts_of(alone) if alone else (),
        notes=tuple(_notes(groups, runs)),
        sections=tuple(section for section in sections if not section.is_empty),
    )


def _title(runs: Sequence[Run], programs: Sequence[str]) -> str:
    if len(runs) == 1:
        return programs[0] if programs else runs[0].name
    return f"{' and '.join(programs[:3])}: comparison" if programs else "Comparison"


def _notes(groups: Sequence[Group], runs: Sequence[Run]) -> list[str]:
    several = len(runs) > 1
    notes = [
        f"{run.name}: {sentence}" if several else sentence
        for run in runs
        for sentence in run.faults.sentences()
    ]
    for group in groups:
        if len(group.runs) > 1 and repeated(group):
            names = ", ".join(run.name for run in group.runs[:8])
            notes.append(
                f"runs of the same configuration and seed are counted as seeds of one: {names}"
            )
    return notes


def _results(groups: Sequence[Group], runs: Sequence[Run]) -> Section:
    if len(runs) == 1:
        return Section(id="results", title="Results", grids=tuple(grids_of(runs[0].result)))
    grids = [overview_of(runs), differing(runs), results_compared(groups)]
    return Section(
        id="results",
        title="Results",
        lead="Runs that differ in their seed only are seeds of one: mean ± standard error (n).",
        grids=tuple(grid for grid in grids if grid is not None),
    )


def _comparison(metrics: Sequence[Metric], constant: Sequence[Metric]) -> Section:
    grids = (last_values(metrics), constants(constant))
    averaged = any(curve.last.n > 1 for metric in metrics for curve in metric.curves.values())
    return Section(
        id="values",
        title="Last values",
        lead="Mean ± standard error over seeds." if averaged else "",
        grids=tuple(grid for grid in grids if grid is not None),
    )


def _curves(panels: Sequence[Panel], run: Run, *, averaged: bool) -> Section:
    lead = "Lines are means over seeds, bands one standard error to either side, faint lines "
    return Section(
        id="curves",
        title="Curves",
        lead=f"{lead}single seeds." if averaged else "",
        plots=plots_of(panels, prefix="curve", faults=run.faults),
    )


def _groups(panels: Sequence[Panel], run: Run) -> Section:
    return Section(
        id="groups",
        title="Groups",
        lead="Numbered metrics seed by seed: areas where they add up, shading where they are many.",
        plots=plots_of(panels, prefix="group", faults=run.faults),
    )


def _histograms(groups: Sequence[Group], run: Run) -> Section:
    return Section(
        id="histograms",
        title="Histograms",
        lead="Shading is the share of values, the solid line their median, dashed lines the 10 % "
        "and 90 % quantiles. Seeds are pooled.",
        plots=distribution_plots(distributions_of(groups), faults=run.faults),
    )


def _tables(runs: Sequence[Run]) -> Section:
    grids: list[Grid] = []
    for run in runs:
        of_run = run.name if len(runs) > 1 else ""
        if len(runs) > 1:
            own = grids_of(run.result)
            grids += [replace(g, caption=_joined(of_run, "result", g.caption)) for g in own]
        for (scope, name), table in run.collected.tables.items():
            when = "" if table.step is None else f"step {number(table.step)}"
            cut = table.num_rows > len(table.rows)
            grids.append(
                Grid(
                    caption=_joined(of_run, name, scope, when),
                    columns=table.columns,
                    rows=tuple(tuple(map(cell, row)) for row in table.rows),
                    note=f"the first {len(table.rows):,} of {table.num_rows:,} rows" if cut else "",
                )
            )
        for kind, found in run.collected.records.items():
            caption = _joined(of_run, kind or "records")
            grids.append(records(caption, found.rows, total=found.count, most=_ROWS))
    shown = [grid for grid in grids if grid.columns and grid.rows]
    if len(shown) > _TABLES:
        runs[0].faults.add("tables", f"the first {_TABLES} of {len(shown):,} are shown")
    most_open = 12 if len(runs) == 1 else 0
    return Section(id="tables", title="Tables", most_open=most_open, grids=tuple(shown[:_TABLES]))


def _graph(runs: Sequence[Run]) -> Section:
    views: dict[str, GraphView] = {}
    for run in runs:
        text = run.about.get("graph")
        if not isinstance(text, str) or not text.strip() or text in views:
            continue
        drawing = parse(text)
        views[text] = GraphView(
            caption=run.name if len(runs) > 1 else "",
            svg=None if drawing is None else diagram(drawing),
            sentences=() if drawing is None else tuple(drawing.sentences()),
            text=_bounded(text) if drawing is None else "",
        )
    graphs = list(views.values())[:_GRAPHS]
    if len(graphs) == 1:
        graphs = [replace(graphs[0], caption="")]
    return Section(id="graph", title="Graph", graphs=tuple(graphs))


def _configuration(runs: Sequence[Run]) -> Section:
    texts: dict[str, list[str]] = {}
    for run in runs:
        if run.configuration is not None:
            texts.setdefault(run.configuration, []).append(run.name)
    alone = len(runs) == 1
    views = [
        TextView(
            title="config.yaml" if alone else ", ".join(names[:_NAMED]),
            content=_bounded(text),
            is_open=alone and text.count("\n") <= _OPEN_LINES,
        )
        for text, names in texts.items()
    ]
    return Section(id="configuration", title="Configuration", texts=tuple(views))


def _joined(*parts: str) -> str:
    return " · ".join(filter(None, parts))


def _bounded(text: str) -> str:
    return clean(text[:_TEXT]) + ("\n…" if len(text) > _TEXT else "")
