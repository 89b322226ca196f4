"""Every solver answers what its law says, and what the law leaves falls with the known order."""

import itertools
from collections.abc import Callable

import pytest
import torch

import mlo
from mlo import FiniteDifference, hypergradient
from mlo.context import Context
from mlo.testing.quadratic import UPPER, Quadratic
from mlo.testing.smooth import Smooth
from mlo.testing.strategies import NESTED, SHAPES
from tests.contract.reference import expansion, predicted, rate_for, ratios, start_of
from tests.contract.solvers import (
    ALL_SHAPES,
    LAWFUL,
    MAIN_SHAPES,
    Entry,
    Setting,
    columns,
    declared,
    law_of,
    program_of,
)
from tests.programs import flat

DTYPES = [torch.float64, torch.float32]
every_flat_shape = pytest.mark.parametrize("shape", SHAPES)


def distance(found, expected) -> float:
    """Return the relative distance of a hypergradient from a flat float64 vector."""
    return float((flat(found.gradient).double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("entry", "product", "shape", "dtype"),
    [
        (entry, product, shape, dtype)
        for shape in ALL_SHAPES
        for entry, product in columns(LAWFUL)
        for dtype in DTYPES
        if shape in MAIN_SHAPES or (product == "autograd" and dtype is torch.float64)
    ],
    ids=str,
)
def test_on_quadratics_every_solver_obeys_its_law_to_rounding(entry, product, shape, dtype):
    if product == "finite_difference":
        # No truncation error on a quadratic, so the radius only sets the rounding.
        product = FiniteDifference(radius=1.0)
    program = program_of(shape, Quadratic)
    found = expansion(program)
    setting = Setting(rate=rate_for(found), product=product)
    graph = declared(program, entry, setting, dtype)
    expected = law_of(found, entry, graph, setting.rate)
    # What is solved for in rounding is magnified by the inverse, and by 1 / step in differences.
    assert distance(hypergradient(graph, UPPER), expected.gradient) < 2e4 * torch.finfo(dtype).eps


@every_flat_shape
@pytest.mark.parametrize("entry", [e for e in LAWFUL if e.order is None], ids=str)
def test_off_quadratics_a_solver_without_a_step_obeys_its_law_to_rounding(entry, shape):
    program = program_of(shape, Smooth)
    found = expansion(program)
    setting = Setting(rate=rate_for(found))
    graph = declared(program, entry, setting)
    expected = law_of(found, entry, graph, setting.rate)
    assert distance(hypergradient(graph, UPPER), expected.gradient) < 1e-9


def errors_of(program, entry: Entry, settings: list[Setting]) -> list[float]:
    found = expansion(program)
    errors = []
    for setting in settings:
        graph = declared(program, entry, setting)
        expected = law_of(found, entry, graph, setting.rate)
        errors.append(distance(hypergradient(graph, UPPER), expected.gradient))
    return errors


@every_flat_shape
@pytest.mark.parametrize("entry", [e for e in LAWFUL if e.products], ids=str)
def test_the_error_of_a_difference_quarters_when_the_radius_halves(entry, shape):
    program = program_of(shape, Smooth)
    rate = rate_for(expansion(program))
    errors = errors_of(
        program,
        entry,
        [Setting(rate=rate, product=FiniteDifference(radius=r)) for r in (0.08, 0.04, 0.02)],
    )
    assert ratios(errors) == pytest.approx([4.0, 4.0], rel=0.1)
    assert errors[-1] > 1e-9


@every_flat_shape
@pytest.mark.parametrize("entry", [e for e in LAWFUL if e.order], ids=str)
def test_the_error_of_a_solver_with_a_step_falls_with_its_order(entry, shape):
    program = program_of(shape, Smooth)
    rate = rate_for(expansion(program))
    errors = errors_of(program, entry, [Setting(rate=rate, step=h) for h in (0.02, 0.01, 0.005)])
    assert ratios(errors) == pytest.approx([2.0**entry.order] * 2, rel=0.1)
    assert errors[-1] > 1e-9


# The inverse itself is approached too.

CONDITION = 5.0


def pairs(shape: str) -> tuple[Quadratic, torch.Tensor]:
    """Return a program of two variables a problem: λ is 1 and 5 in each that is not nested."""
    program = program_of(shape, Quadratic, sizes=(2, 2, 2, 2), condition=CONDITION)
    found = expansion(program)
    return program, predicted(found, dict.fromkeys(found.lower, torch.linalg.inv)).gradient


def error_at(program: Quadratic, response: mlo.Response, exact: torch.Tensor, **more) -> float:
    entry = Entry(name="one", make=lambda _: response, **more)
    return distance(
        hypergradient(declared(program, entry, Setting(rate=1 / CONDITION)), UPPER), exact
    )


GEOMETRIC: dict[str, Callable[[int], mlo.Response]] = {
    "neumann": lambda k: mlo.neumann(k, 1 / CONDITION),
    "warm-started": lambda k: mlo.warm_started(mlo.inverse.identity(1 / CONDITION), steps=k),
    "value function": lambda k: mlo.value_function(10.0, k, rate=1 / CONDITION, tolerance=0.0),
    "unrolled": lambda k: mlo.unrolled(k),
}


@every_flat_shape
@pytest.mark.parametrize("name", GEOMETRIC)
def test_terms_steps_and_updates_each_take_the_factor_one_minus_rate_times_eigenvalue(name, shape):
    program, exact = pairs(shape)
    more = {"optimizer": lambda p, rate: torch.optim.SGD(p, lr=rate)} if name == "unrolled" else {}
    errors = [error_at(program, GEOMETRIC[name](k), exact, **more) for k in (20, 30, 40)]
    factor = (1 - 1 / CONDITION) ** 10
    # Beside the leading power there is its square, where two problems lie on one path.
    assert ratios(errors) == pytest.approx([1 / factor] * 2, rel=0.05)


@pytest.mark.parametrize("shape", ["bilevel", "both paths"])
def test_the_squared_rate_counts_in_a_stationarity_penalty(shape):
    program, exact = pairs(shape)
    errors = [
        error_at(
            program, mlo.stationarity_penalty(10.0, k, rate=1 / CONDITION, tolerance=0.0), exact
        )
        for k in (100, 150, 200)
    ]
    factor = (1 - 1 / CONDITION**2) ** 50
    assert ratios(errors) == pytest.approx([1 / factor] * 2, rel=0.05)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", MAIN_SHAPES)
def test_neumann_with_a_rate_of_its_own_converges_geometrically(shape, dtype):
    program = program_of(shape, Quadratic, condition=2.0)
    found = expansion(program)
    exact = predicted(found, dict.fromkeys(found.lower, torch.linalg.inv)).gradient
    errors = []
    for terms in (6, 12, 24) if shape in SHAPES else (6, 12):
        entry = Entry(name="auto", make=lambda _, k=terms: mlo.neumann(k, "auto"))
        graph = declared(program, entry, Setting(rate=1.0), dtype)
        errors.append(distance(hypergradient(graph, UPPER), exact))
    # Twice the terms, the square of the error, up to a constant and rounding.
    rounding = 1e3 * torch.finfo(dtype).eps
    for coarse, fine in itertools.pairwise(errors):
        assert fine < 20 * coarse**2 + rounding


@pytest.mark.parametrize("shape", MAIN_SHAPES)
def test_the_bias_of_nystrom_is_linear_in_its_damping_and_vanishes(shape):
    program = program_of(shape, Quadratic)
    found = expansion(program)
    exact = predicted(found, dict.fromkeys(found.lower, torch.linalg.inv)).gradient
    errors = [error_at(program, mlo.nystrom(12, damping), exact) for damping in (1e-3, 1e-4, 1e-5)]
    assert ratios(errors) == pytest.approx([10.0, 10.0], rel=0.03)
    assert errors[-1] < 1e-4


@every_flat_shape
def test_repeated_calls_of_a_warm_started_solver_obey_its_recursion(shape):
    """``w ← w + ξ (v - H w)`` in each problem, v being what the calls so far make of the others."""
    program = program_of(shape, Quadratic)
    found = expansion(program)
    rate = rate_for(found)
    response = mlo.warm_started(mlo.inverse.identity(rate))
    graph = declared(program, Entry(name="one", make=lambda _: response), Setting(rate=rate))
    order = graph.sweeps[UPPER].order
    contexts = {name: Context(problem=name) for name in order}
    kept = {n: torch.zeros(found.spans[n].stop - found.spans[n].start).double() for n in order}
    for _ in range(8):
        got = hypergradient(graph, UPPER, contexts=contexts)
        cotangent = found.slopes[UPPER].clone()
        for name in order:
            own, form = found.spans[name], found.forms[name]
            kept[name] = kept[name] + rate * (cotangent[own] - form[own, own] @ kept[name])
            above = form[own].clone()
            above[:, own] = 0
            cotangent = cotangent - above.T @ kept[name]
        assert distance(got, cotangent[found.spans[UPPER]]) < 1e-12
    for _ in range(120):
        got = hypergradient(graph, UPPER, contexts=contexts)
    exact = predicted(found, dict.fromkeys(found.lower, torch.linalg.inv)).gradient
    assert distance(got, exact) < 1e-5


@pytest.mark.parametrize("shape", ["bilevel", "both paths", "diamond"])
def test_repeated_calls_of_a_warm_started_solver_converge_at_a_linear_rate(shape):
    program, exact = pairs(shape)
    response = mlo.warm_started(mlo.inverse.identity(1 / CONDITION))
    graph = declared(program, Entry(name="one", make=lambda _: response), Setting(rate=1.0))
    contexts = {name: Context(problem=name) for name in graph.sweeps[UPPER].order}
    errors = []
    for _ in range(100):
        errors.append(distance(hypergradient(graph, UPPER, contexts=contexts), exact))
    observed = (errors[-1] / errors[-21]) ** (1 / 20)
    # Where the vector of a problem converges too, as on a path of two, k (1 - ξλ)^k is left.
    assert observed == pytest.approx(1 - 1 / CONDITION, rel=1e-3 if shape == "bilevel" else 2 / 80)


@pytest.mark.parametrize("shape", NESTED)
def test_what_solves_a_nested_program_exactly_gives_the_closed_form(shape):
    """The reference of this table against the closed form of the program."""
    program = program_of(shape, Quadratic)
    found = expansion(program)
    start = start_of(program).clone().requires_grad_()
    loss = program.upper.value({**program.solution(start), UPPER: start})
    (expected,) = torch.autograd.grad(loss, start)
    solved = predicted(found, dict.fromkeys(found.lower, torch.linalg.inv))
    assert torch.allclose(solved.gradient, expected, rtol=1e-10)
