"""Checks a user's own hypergradient, as `torch.autograd.gradcheck` checks a gradient."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mlo.context import Context
from mlo.errors import GraphError, MloError
from mlo.graph import Graph
from mlo.hypergradient import hypergradient
from mlo.outcome import Status
from mlo.randomness import unchanged
from mlo.testing import diagnosis, measure, verdict
from mlo.testing.double import doubled
from mlo.testing.linear import Ritz, dense, ritz_values
from mlo.testing.newton import Solution
from mlo.testing.report import Comparison, Finding, HypergradientError, Report, Row, Solved
from mlo.testing.setting import number_of
from mlo.testing.solve import own_gradient, second_of, solved_below
from mlo.testing.system import (
    Flat,
    System,
    assign,
    order_of,
    point_of,
    system_of,
)

_DENSE = 2000
"""Parameters up to which a dense Hessian costs less than solving with it again and again."""


def check_hypergradient(
    graph: Graph,
    name: str,
    batches: Mapping[str, Any] | None = None,
    *,
    directions: int = 5,
    seed: int = 0,
    tolerance: float = 1e-3,
    strict: bool = False,
    throw: bool = True,
    contexts: Mapping[str, Context] | None = None,
) -> Report:
    """Compare ``dF/da`` as declared with differences of ``F(θ*(a + h·d), a + h·d)``, solved anew.

    Works on a float64 copy: no parameter, buffer, optimizer or random generator of the program
    changes. The copy's lower problems are solved to the last digits, weight decay of their
    optimizers included. There the whole hypergradient, and the response of each solved problem to
    each problem above it, are compared with central differences along random directions: the
    lower problems are solved again at both ends, on the same batches with the same random numbers.
    Findings say in words what is wrong.

    A problem that has no attainable minimum (a classifier on separable data) is checked where it
    stands: its gradient there is subtracted from its loss, which makes the point a solution
    with the same second derivatives. A warning says so.

    One-step responses, and damping, are approximations by design. They are compared with what they
    promise, must keep it, and are reported with their distance from the derivative of the solution
    as warnings. A linear solve that stops early fails where its error exceeds `tolerance`.

    Args:
        graph: The program; at its solution or not.
        name: The problem to differentiate.
        batches: The batch of `name` and of each problem in its sweep, by problem name.
        directions: Random directions in each comparison.
        seed: Of the directions; drawn from a generator of its own.
        tolerance: Relative error of a response, or of the whole, that passes.
        strict: Let warnings fail too: approximations by design, parameters that are not at the
            solution now, weight decay that cannot be counted.
        throw: Raise if the check fails, instead of only reporting it.
        contexts: What is known of each solved problem's optimizer, as in `mlo.hypergradient`.

    Returns:
        The numbers and the findings; ``print(report)`` shows both.

    Raises:
        HypergradientError: If the check fails and `throw` is true.
        GraphError: If no problem is called `name`, or nothing responds to it.
        BatchError: If a batch is missing, or is given under a name that no problem has.
        MloError: If an argument is out of range or a module cannot be copied.

    >>> import torch
    >>> from torch import nn
    >>> from mlo.problem import Problem
    >>> from mlo.response.implicit import cg
    >>> class Scalar(nn.Module):
    ...     def __init__(self, value):
    ...         super().__init__()
    ...         self.value = nn.Parameter(torch.tensor(value))
    >>> graph = Graph(
    ...     Problem(name="x", module=Scalar(0.0), response=cg(),
    ...             loss=lambda x, a: (x.value - a.value.exp()) ** 2),
    ...     Problem(name="a", module=Scalar(1.0), loss=lambda x: x.value ** 2),
    ... )
    >>> report = check_hypergradient(graph, "a")
    >>> report.ok, report.total.relative_error < 1e-8
    (True, True)
    """
    _check_arguments(graph, name, directions, tolerance)
    device = next(iter(graph.problem(name).parameters().values())).device
    with unchanged(device):
        copied, found = doubled(graph, device, contexts)
        report = _report(
            copied, name, dict(batches or {}), found, (directions, seed, tolerance), strict=strict
        )
    if throw and not report.ok:
        raise HypergradientError(report)
    return report


def _check_arguments(graph: Graph, name: str, directions: int, tolerance: float) -> None:
    graph.problem(name)
    if not graph.sweeps[name].order:
        able = [n for n, sweep in graph.sweeps.items() if sweep.order]
        raise GraphError(
            f"problem {name!r}: no lower problem responds to it, so there is no hypergradient to "
            f"check; expected one of {tuple(able)}"
        )
    if isinstance(directions, bool) or not isinstance(directions, int) or directions < 1:
        raise MloError(f"directions must be an integer >= 1, got {directions!r}")
    if not 0 < tolerance < float("inf"):
        raise MloError(f"tolerance must be > 0, got {tolerance!r}")


def _report(
    graph: Graph,
    name: str,
    batches: Mapping[str, Any],
    contexts: Mapping[str, Context],
    options: tuple[int, int, float],
    *,
    strict: bool,
) -> Report:
    count, seed, tolerance = options
    graph, record = measure.recorded(graph)
    order = order_of(graph, name)
    used = {n: contexts[n] for n in order}
    dampings = {n: number_of(graph.response(n), "damping") or 0.0 for n in order}
    # Raises for a missing batch before anything is computed.
    before = _gradient(graph, name, batches, used)
    system = system_of(graph, name, batches, used)
    start = point_of(system)
    findings: list[Finding] = []

    def finished(
        total: Comparison | None = None,
        now: tuple[float, float] | None = None,
        rows: tuple[Row, ...] = (),
        solved: dict[str, Solved] | None = None,
    ) -> Report:
        ranked = sorted(findings, key=lambda f: diagnosis.SEVERITIES.index(f.severity))
        return Report(
            target=name,
            total=total,
            now=now,
            rows=rows,
            solved=solved or {},
            findings=tuple(ranked),
            tolerance=tolerance,
            strict=strict,
        )

    findings += diagnosis.randomness(system, start)
    if findings:
        return finished()
    findings += diagnosis.detached(system, start, seed=seed)
    norms = {n: float(own_gradient(system, n, start)(start[n]).norm()) for n in order}
    system, values, solutions = solved_below(system, start, dampings)
    tilted = tuple(system.tilts)
    system, ritz = _with_curvature(system, values)
    solved = {n: _summary(solutions[n], norms[n], ritz[n]) for n in order}
    findings += diagnosis.solved(solved, solutions, tilted)
    assign(system, values)
    record.clear()
    at_solution = _gradient(graph, name, batches, used)
    now = None if tilted else _apart(before, at_solution)
    rows, row_findings = _rows(system, values, record, ritz, options)
    findings += row_findings
    if now is not None:
        findings += diagnosis.distance(system, now, solved, tolerance)
    if any(unmeasurable(system, n, ritz[n]) for n in order):
        return finished(None, now, tuple(rows), solved)
    total = measure.measure_total(
        system, values, at_solution, count=count, seed=seed, accuracy=tolerance / 100
    )
    findings += diagnosis.total(system, total, findings, tolerance)
    return finished(total.comparison, now, tuple(rows), solved)


def _gradient(
    graph: Graph, name: str, batches: Mapping[str, Any], contexts: Mapping[str, Context]
) -> Tensor:
    """Return the hypergradient as declared, shape ``(n,)``."""
    found = hypergradient(graph, name, batches, contexts=contexts).gradient
    like = graph.problem(name).parameters()
    return measure.declared(found, dict(like))


def _with_curvature(system: System, values: Flat) -> tuple[System, dict[str, Ritz]]:
    """Return extreme eigenvalues and, where that is cheap, keep the inverse Hessian."""
    ritz: dict[str, Ritz] = {}
    inverses: dict[str, Callable[[Tensor], Tensor]] = {}
    for name in order_of(system.graph, system.target):
        second = second_of(system, name, values)
        product = functools.partial(_own, second, name)
        nested = bool(order_of(system.graph, name))
        if values[name].numel() > _DENSE or nested:
            ritz[name] = ritz_values(product, values[name])
        else:
            ritz[name], inverses[name] = dense(product, values[name])
    return replace(system, inverses=inverses), ritz


def _own(second: Callable[[Tensor], Flat], name: str, direction: Tensor) -> Tensor:
    return second(direction)[name]


def _summary(solution: Solution, norm_now: float, ritz: Ritz) -> Solved:
    return Solved(
        gradient_norm_now=norm_now,
        gradient_norm=solution.gradient_norm,
        distance=solution.distance,
        smallest=ritz.smallest,
        largest=ritz.largest,
    )


def _apart(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return cosine and relative error of two vectors."""
    size = float(expected.norm())
    error = float((found - expected).norm()) / size if size else float("nan")
    both = size * float(found.norm())
    return (float(found @ expected) / both if both else float("nan")), error


def unmeasurable(system: System, name: str, ritz: Ritz) -> bool:
    """Return whether a problem without a solution is not even held where it stands."""
    return name in system.tilts and not ritz.smallest > 1e-6 * abs(ritz.largest)


def _rows(
    system: System,
    values: Flat,
    record: Mapping[str, measure.Answer],
    ritz: Mapping[str, Ritz],
    options: tuple[int, int, float],
) -> tuple[list[Row], list[Finding]]:
    rows: list[Row] = []
    findings: list[Finding] = []
    plan = system.graph.sweeps[system.target]
    for name in plan.order:
        if name not in record:
            findings += diagnosis.no_gradient_arrives(system, name)
            continue
        cases = [
            case
            for upper in plan.flows[name]
            if (case := _case(system, values, name, upper, record[name], ritz[name], options))
        ]
        if not cases:
            findings += diagnosis.unmeasured(name, record[name].outcome)
        for number, case in enumerate(cases):
            rows.append(case.row)
            findings += verdict.on_response(case)
            if not number:
                findings += verdict.on_problem(case)
    return rows, findings


def _case(
    system: System,
    values: Flat,
    name: str,
    upper: str,
    asked: measure.Answer,
    ritz: Ritz,
    options: tuple[int, int, float],
) -> verdict.Case | None:
    """Return one response and its measurement, None if it cannot be measured."""
    count, seed, tolerance = options
    label = system.graph.response(name).label
    answer = measure.declared(asked.answer.get(upper, {}), system.values[upper])
    accuracy = {"count": count, "seed": seed}
    is_update = name in system.tilts and asked.outcome.status is Status.ONE_STEP
    if is_update:
        step = verdict.update_of(system, name, label, asked.vector)
        if step is None:
            return None
        found = measure.measure_update(
            system, values, name, upper, step, answer, accuracy=tolerance / 100, **accuracy
        )
    elif unmeasurable(system, name, ritz):
        return None
    else:
        found = measure.measure_response(
            system, values, name, upper, asked.vector, answer, accuracy=tolerance / 100, **accuracy
        )
    row = Row(
        problem=name,
        above=upper,
        response=label,
        comparison=found.comparison,
        residual=asked.outcome.residual,
    )
    return verdict.Case(
        system=system,
        values=values,
        row=row,
        asked=asked,
        answer=answer,
        jump=found.jump,
        ritz=ritz,
        tolerance=tolerance,
        is_update=is_update,
    )
