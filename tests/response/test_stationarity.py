import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlo
from mlo import Graph, Problem, Status
from mlo import hypergradient as hypergradient_of
from mlo.inner import inner_of
from mlo.response.stationarity import stationarity_penalty
from mlo.testing.quadratic import UPPER, declare, random_quadratic
from mlo.testing.strategies import seeds
from tests.programs import Vector, counted, flat, relative_error, solved_with

BILEVEL = {"x": [UPPER], UPPER: ["x"]}


def curved(response, *, dtype=torch.float64):
    """A smooth convex inner problem that is no quadratic and that has not converged."""
    return Graph(
        Problem(
            name="x",
            module=Vector(0.3, -0.4, 0.1, dtype=dtype),
            loss=lambda x, a: ((x.value - a.value).exp() + x.value.square()).sum(),
            response=response,
        ),
        Problem(
            name="a",
            module=Vector(0.5, 0.2, -0.3, dtype=dtype),
            loss=lambda x: (x.value - 1).pow(4).sum(),
        ),
    )


def test_the_error_halves_when_the_strength_doubles():
    expected = hypergradient_of(curved(mlo.exact()), "a").gradient
    errors = []
    for strength in (50.0, 100.0, 200.0, 400.0):
        response = stationarity_penalty(strength, 1000, rate=0.3, tolerance=1e-12)
        found = hypergradient_of(curved(response), "a").gradient
        errors.append(relative_error(found, expected))
    ratios = [coarse / fine for coarse, fine in itertools.pairwise(errors)]
    assert ratios == pytest.approx([2.0, 2.0, 2.0], rel=0.03)
    assert errors[0] > 1e-5


@settings(max_examples=15)
@given(st.floats(1.0, 20.0), seeds, st.integers(1, 20), st.floats(0.1, 1.35), st.floats(0.1, 1e4))
def test_on_a_quadratic_the_error_is_the_power_of_the_squared_contraction(
    condition, seed, steps, fraction, strength
):
    program = random_quadratic({"x": 4, UPPER: 3}, BILEVEL, condition=condition, seed=seed)
    loss = program.lower["x"]
    rate = fraction / float(torch.linalg.eigvalsh(loss.curvature).max())
    response = stationarity_penalty(strength, steps, rate=rate, tolerance=0.0)
    graph, expected = solved_with(program, response)
    found = hypergradient_of(graph, UPPER)
    cotangent = program.upper.curvature @ program.solution(program.start)["x"]
    squared = rate**2 * loss.curvature @ loss.curvature
    contraction = torch.eye(4, dtype=torch.float64) - squared
    left = torch.linalg.matrix_power(contraction, steps) @ torch.linalg.solve(
        loss.curvature, cotangent + program.upper.linear
    )
    error = loss.couplings[UPPER].T @ left
    scale = float(flat(expected).norm() + error.norm())
    difference = flat(found.gradient) - flat(expected) - error
    assert float(difference.norm()) <= 1e-14 * (10 + strength) * 100 * (1 + scale)


def test_a_penalty_without_a_graph_has_no_effect_and_ours_has_one():
    """A peer takes the inner gradient without ``create_graph``: nothing above gets a gradient."""
    x = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((x - a).square().sum(), x)
    assert not gradient.square().sum().requires_grad

    @inner_of
    def inner(solution, upstream):
        return (solution["x"] - upstream["a"]["u"]).square().sum()

    response = stationarity_penalty(steps=50, rate=0.4)
    given = {"x": x.detach()}, {"a": {"u": a.detach()}}
    answer, outcome = response(inner, *given, {"x": torch.ones(1).double()}, mlo.Context())
    assert answer["a"]["u"].item() == pytest.approx(1.0, rel=1e-6)
    assert outcome.converged


def test_the_penalty_is_weighted_by_the_rates_so_that_units_cancel():
    """Rescaling a parameter, and its rate with it, changes nothing at any number of steps."""
    answers = []
    for unit in (1.0, 10.0):

        @inner_of
        def inner(solution, upstream, unit=unit):
            x, y, a = unit * solution["x"], solution["y"], upstream["a"]["u"]
            return ((x - a) ** 2 + (x - y) ** 2 + (y - a).exp()).sum()

        solution = {"x": torch.ones(2).double() / unit, "y": torch.zeros(2).double()}
        rates = {"x": 0.1 / unit**2, "y": 0.1}
        vector = {"x": unit * torch.ones(2).double(), "y": torch.ones(2).double()}
        # The norm of the vector is not that of the rescaled one: keep σ = strength·‖v‖.
        strength = 100.0 / float(torch.cat(list(vector.values())).norm())
        answer, _ = stationarity_penalty(strength, 4)(
            inner,
            solution,
            {"a": {"u": torch.tensor([0.3, -0.2]).double()}},
            vector,
            mlo.Context(rates=rates),
        )
        answers.append(answer["a"])
    assert relative_error(answers[1], answers[0]) < 1e-10


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_it_costs_what_it_announces(steps, monkeypatch):
    response = stationarity_penalty(steps=steps, rate=0.01)
    program = random_quadratic({"x": 6, UPPER: 2}, BILEVEL, condition=50.0)
    graph, forwards = counted(declare(program, {"x": response}))
    backwards, grad = [], torch.autograd.grad

    def counting(*arguments, **options):
        backwards.append(options.get("create_graph", False))
        return grad(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    hypergradient_of(graph, UPPER)
    assert forwards == {"x": steps + 1, UPPER: 1}
    # One of them is that of the upper loss.
    assert len(backwards) == 1 + response.evaluations == 1 + 2 * steps + 1
    assert f"upper: 1 x {1 + response.evaluations}" in graph.explain()


def test_a_maximum_satisfies_it_too():
    """The pitfall: the answer is right for a stationary point, of whatever kind."""

    def answer(sign):
        response = stationarity_penalty(steps=60, rate=0.4)

        @inner_of
        def inner(solution, upstream):
            return sign * (solution["x"] - upstream["a"]["u"]).square().sum()

        place = {"x": torch.zeros(1).double()}, {"a": {"u": torch.zeros(1).double()}}
        return response(inner, *place, {"x": torch.ones(1).double()}, mlo.Context())

    (least, first), (greatest, second) = answer(1.0), answer(-1.0)
    assert torch.allclose(least["a"]["u"], greatest["a"]["u"])
    assert first.status is second.status is Status.CONVERGED


def test_the_default_strength_suits_float32():
    expected = hypergradient_of(curved(mlo.exact()), "a").gradient
    response = stationarity_penalty(steps=100, rate=0.3)
    found = hypergradient_of(curved(response, dtype=torch.float32), "a")
    assert relative_error({n: t.double() for n, t in found.gradient.items()}, expected) < 2e-2
    assert found.outcomes["x"].status is Status.CONVERGED


@pytest.mark.parametrize(
    ("response", "label"),
    [
        (stationarity_penalty(), "stationarity_penalty(strength=100, steps=10)"),
        (
            stationarity_penalty(10, 3, rate=0.5),
            "stationarity_penalty(strength=10, steps=3, rate=0.5)",
        ),
    ],
)
def test_labels(response, label):
    assert response.label == label
