"""Panels and distributions as drawings of the page."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from mlo.report.drawing import Line
from mlo.report.faults import Faults
from mlo.report.histograms import Distribution, draw_distribution
from mlo.report.legend import legend_of
from mlo.report.page import Plot
from mlo.report.panels import Panel
from mlo.report.svg import svg_of
from mlo.report.wording import counted, number

_PANELS, _DISTRIBUTIONS, _DESCRIBED = 72, 24, 12


def plots_of(panels: Sequence[Panel], *, prefix: str, faults: Faults) -> tuple[Plot, ...]:
    """Return the drawings of panels; too many, or what cannot be drawn, is noted.

    Args:
        panels: In the order of the page.
        prefix: Begins the ids of the drawings.
        faults: Where notes go.
    """
    if len(panels) > _PANELS:
        faults.add("curves", f"the first {_PANELS} of {len(panels):,} panels are drawn")
    drawn: list[Plot] = []
    for place, panel in enumerate(panels[:_PANELS]):
        plot = _plot(
            lambda panel=panel: panel.draw(panel.lines, panel.axis),  # type: ignore[misc]
            title=panel.title,
            prefix=f"{prefix}{place}",
            label=described(panel),
            faults=faults,
        )
        if plot is not None:
            legend = tuple(legend_of(panel))
            remark = "; ".join(filter(None, (plot.remark, panel.remark)))
            drawn.append(Plot(title=plot.title, svg=plot.svg, legend=legend, remark=remark))
    return tuple(drawn)


def distribution_plots(
    distributions: Sequence[Distribution], *, faults: Faults
) -> tuple[Plot, ...]:
    """Return the drawings of histograms over time."""
    if len(distributions) > _DISTRIBUTIONS:
        faults.add("histograms", f"the first {_DISTRIBUTIONS} of {len(distributions):,} are drawn")
    drawn = [
        _plot(
            lambda each=each: draw_distribution(each),  # type: ignore[misc]
            title=each.title,
            prefix=f"histogram{place}",
            label=f"{each.title}: distribution at {counted(len(each.times), 'time')}",
            faults=faults,
        )
        for place, each in enumerate(distributions[:_DISTRIBUTIONS])
    ]
    return tuple(plot for plot in drawn if plot is not None)


def described(panel: Panel) -> str:
    """Return in words where the first lines of a panel begin and end."""
    parts = [_course(line, panel.axis) for line in panel.lines[:_DESCRIBED]]
    more = len(panel.lines) - _DESCRIBED
    return f"{panel.title}: {'; '.join(parts + ([f'and {more:,} more'] if more > 0 else []))}"


def _course(line: Line, axis: str) -> str:
    curve = line.curve
    name = f"{line.label} " if line.label else ""
    steps, values = curve.steps, curve.mean
    if not len(steps):
        return f"{name}ends at {number(curve.last.mean)}"
    return (
        f"{name}from {number(float(values[0]))} at {axis} {number(float(steps[0]))} "
        f"to {number(float(values[-1]))} at {axis} {number(float(steps[-1]))}"
    )


def _plot(
    draw: Callable[[], tuple[Figure, str]], *, title: str, prefix: str, label: str, faults: Faults
) -> Plot | None:
    try:
        figure, remark = draw()
        svg = svg_of(figure, prefix=prefix, label=label)
    except Exception as error:
        # One drawing that matplotlib refuses must not cost the page.
        faults.add(title, f"cannot be drawn: {type(error).__name__}")
        return None
    return Plot(title=title, svg=svg, legend=(), remark=remark)
