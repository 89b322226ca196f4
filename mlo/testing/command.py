"""What `mlo check` does: one batch a problem, one report a hypergradient."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlo.errors import GraphError
from mlo.feed import Feed
from mlo.graph import Graph
from mlo.testing.check import check_hypergradient
from mlo.testing.report import Report, Severity, headline, tables

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def check(
    graph: Graph,
    names: Sequence[str],
    *,
    directions: int,
    seed: int,
    tolerance: float,
    strict: bool,
    console: Console,
) -> bool:
    """Check the hypergradients of a program on the first batch of each problem, and print them.

    Args:
        graph: The program.
        names: The problems to differentiate; if empty, every problem that lower ones respond to.
        directions: Random directions in each comparison.
        seed: Of the directions.
        tolerance: Relative error that passes.
        strict: Whether warnings fail.
        console: Where to print.

    Returns:
        Whether all checks passed.

    Raises:
        MloError: If the program or an argument is at fault.

    >>> from torch import nn
    >>> from mlo.problem import Problem
    >>> from mlo.response.implicit import cg
    >>> graph = Graph(
    ...     Problem(name="x", module=nn.Linear(1, 1), response=cg(),
    ...             loss=lambda x, a: (x.weight - a.weight).square().sum() + x.bias.square().sum()),
    ...     Problem(name="a", module=nn.Linear(1, 1), loss=lambda x: x.weight.exp().sum()),
    ... )
    >>> import io
    >>> check(graph, [], directions=2, seed=0, tolerance=1e-3, strict=False,
    ...       console=Console(file=io.StringIO()))
    True
    """
    wanted = names or [name for name, sweep in graph.sweeps.items() if sweep.order]
    if not wanted:
        raise GraphError(
            "no problem is differentiated through another, so there is nothing to check"
        )
    batches = {}
    for name, problem in graph.problems.items():
        if problem.batches is not None:
            device = next(problem.module.parameters()).device
            batches[name] = Feed(name, problem.batches, device).draw()
    passed = True
    for name in wanted:
        with console.status(f"solving the problems below {name!r} again and again"):
            report = check_hypergradient(
                graph,
                name,
                batches,
                directions=directions,
                seed=seed,
                tolerance=tolerance,
                strict=strict,
                throw=False,
            )
        show(report, console)
        passed = passed and report.ok
    return passed


def show(report: Report, console: Console) -> None:
    """Print the verdict, the tables and the findings."""
    console.print(Text(headline(report), style="bold green" if report.ok else "bold red"))
    for table in tables(report):
        console.print(table)
    findings = Table.grid(padding=(0, 1, 1, 0))
    for finding in report.findings:
        style = _STYLES[finding.severity]
        what = f"{finding.problem}: {finding.cause.value}"
        findings.add_row(
            Text(finding.severity.value, style=style), Text(what, style="bold"), finding.message
        )
    if report.findings:
        console.print(findings)
