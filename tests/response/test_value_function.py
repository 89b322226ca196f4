import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import mlo
from mlo import Graph, Problem, Status
from mlo import hypergradient as hypergradient_of
from mlo.inner import inner_of
from mlo.response.value_function import value_function
from mlo.testing.quadratic import UPPER, declare, random_quadratic
from mlo.testing.strategies import conditions, seeds
from tests.programs import (
    Vector,
    counted,
    flat,
    network,
    regression_batches,
    relative_error,
    solved_with,
    two_levels,
)

BILEVEL = {"x": [UPPER], UPPER: ["x"]}


def curved(response, *, dtype=torch.float64):
    """A smooth convex inner problem that is no quadratic and that has not converged."""
    return Graph(
        Problem(
            name="x",
            module=Vector(0.3, -0.4, 0.1, dtype=dtype),
            loss=lambda x, above: (x.value - above.value).exp().sum() + x.value.square().sum(),
            response=response,
        ),
        Problem(
            name="above",
            module=Vector(0.5, 0.2, -0.3, dtype=dtype),
            loss=lambda x: (x.value - 1).pow(4).sum(),
        ),
    )


def error_of(response):
    expected = hypergradient_of(curved(mlo.exact()), "above").gradient
    return relative_error(hypergradient_of(curved(response), "above").gradient, expected)


@pytest.mark.parametrize(("central", "order"), [(False, 1), (True, 2)])
def test_the_error_falls_with_the_known_power_of_the_strength(central, order):
    options = {"steps": 500, "rate": 0.3, "central": central, "tolerance": 1e-12}
    errors = [error_of(value_function(s, **options)) for s in (20.0, 40.0, 80.0, 160.0)]
    ratios = [coarse / fine for coarse, fine in itertools.pairwise(errors)]
    assert ratios == pytest.approx([2**order] * 3, rel=0.03)
    assert errors[0] > 1e-5


@settings(max_examples=15)
@given(conditions, seeds, st.integers(1, 20), st.floats(0.1, 1.9), st.floats(0.1, 1e4))
def test_on_a_quadratic_the_error_is_the_power_of_the_contraction_whatever_the_strength(
    condition, seed, steps, fraction, strength
):
    program = random_quadratic({"x": 4, UPPER: 3}, BILEVEL, condition=condition, seed=seed)
    loss = program.lower["x"]
    rate = fraction / float(torch.linalg.eigvalsh(loss.curvature).max())
    response = value_function(strength, steps, rate=rate, tolerance=0.0)
    graph, expected = solved_with(program, response)
    found = hypergradient_of(graph, UPPER)
    cotangent = program.upper.curvature @ program.solution(program.start)["x"]
    contraction = torch.eye(4, dtype=torch.float64) - rate * loss.curvature
    left = torch.linalg.matrix_power(contraction, steps) @ torch.linalg.solve(
        loss.curvature, cotangent + program.upper.linear
    )
    error = loss.couplings[UPPER].T @ left
    scale = float(flat(expected).norm() + error.norm())
    difference = flat(found.gradient) - flat(expected) - error
    assert float(difference.norm()) <= 1e-14 * (10 + strength) * 100 * (1 + scale)


def test_it_is_as_exact_as_the_series_with_as_many_terms():
    program = random_quadratic({"x": 4, UPPER: 3}, BILEVEL, condition=5.0)
    response = value_function(steps=7, rate=0.1, tolerance=0.0)
    found = hypergradient_of(declare(program, {"x": response}), UPPER)
    series = hypergradient_of(declare(program, {"x": mlo.neumann(terms=7, rate=0.1)}), UPPER)
    assert relative_error(found.gradient, series.gradient) < 1e-10
    assert found.outcomes["x"].residual == pytest.approx(series.outcomes["x"].residual)


def test_one_central_step_is_the_finite_difference():
    response = value_function(20.0, 1, rate=0.1, central=True)
    found = hypergradient_of(curved(response), "above").gradient
    difference = mlo.finite_difference(0.1 / 20, rate=0.1)
    expected = hypergradient_of(curved(difference), "above").gradient
    assert relative_error(found, expected) < 1e-11
    assert response.evaluations == difference.evaluations == 2


def test_the_leftover_gradient_of_an_unconverged_problem_is_subtracted():
    """A peer that minimises from θ without it answers with how far θ still has to go."""
    strength, x, a, v = 100.0, torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([1.0])

    @inner_of
    def inner(solution, upstream):
        return (solution["x"] - upstream["a"]["u"]).square().sum()

    response = value_function(strength, 50, rate=0.3)
    answer, _ = response(inner, {"x": x}, {"a": {"u": a}}, {"x": v}, mlo.Context())
    assert answer["a"]["u"].item() == pytest.approx(1.0, rel=1e-3)
    # min (y - a)² + vy / strength is at a - v / (2·strength), and ∂g/∂a = -2(y - a).
    tilted = a - v / (2 * strength)
    peer = strength * (-2 * (tilted - a) + 2 * (x - a))
    assert peer.item() == pytest.approx(401.0)


def test_the_rate_does_not_depend_on_the_strength():
    """The peers' step on f + λg, at a rate that suits g, diverges as soon as λ passes 2 / (ξL)."""
    program = random_quadratic({"x": 4, UPPER: 3}, BILEVEL, condition=3.0)
    loss, strength, rate = program.lower["x"], 1000.0, 0.4
    y = program.solution(program.start)["x"]
    force = loss.couplings[UPPER] @ program.start + loss.linear
    for _ in range(50):
        tilt = program.upper.curvature @ y + program.upper.linear
        y = y - rate * (tilt + strength * (loss.curvature @ y + force))
    assert float(y.norm()) > 1e100
    for strength in (1.0, 1e3, 1e6):
        graph, expected = solved_with(
            program, value_function(strength, 70, rate=rate, tolerance=1e-9)
        )
        found = hypergradient_of(graph, UPPER)
        assert relative_error(found.gradient, expected) < 1e-8
        assert found.outcomes["x"].converged


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("central", [False, True])
def test_it_costs_what_it_announces(steps, central):
    response = value_function(steps=steps, rate=0.01, central=central)
    program = random_quadratic({"x": 6, UPPER: 2}, BILEVEL, condition=50.0)
    graph, counts = counted(declare(program, {"x": response}))
    hypergradient_of(graph, UPPER)
    middle = 0 if steps == 1 else 1
    expected = middle + 2 * steps if central else 1 + steps
    assert counts == {"x": expected, UPPER: 1}
    assert response.evaluations == expected
    assert f"upper: 1 x {1 + expected}" in graph.explain()


@pytest.mark.parametrize("central", [False, True])
def test_only_wanted_gradients_are_asked_for(central):
    asked = []

    def loss(x, above):
        asked.append((x.value.requires_grad, above.value.requires_grad))
        return (x.value - above.value).square().sum()

    response = value_function(steps=3, rate=0.1, central=central)
    graph = Graph(
        Problem(name="x", module=Vector(1.0), loss=loss, response=response),
        Problem(name="above", module=Vector(2.0), loss=lambda x: x.value.sum()),
    )
    hypergradient_of(graph, "above")
    # The solution is a variable always, as losses look which parameters are trained.
    branch = [(True, False), (True, False), (True, True)]
    expected = [(True, False), *branch, *branch] if central else [(True, True), *branch]
    assert asked == expected


class Attention(nn.Module):
    """Attends to its input with one learned map; fused unless told otherwise."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.map = nn.Linear(3, 4).double()

    def forward(self, inputs):
        tokens = self.map(inputs)[None, None]
        attended = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return attended[0, 0].sum(1, keepdim=True)


def test_it_works_with_fused_attention_that_has_no_double_backward():
    def found(response, backend):
        with sdpa_kernel(backend):
            graph = two_levels(Attention(), response)
            return hypergradient_of(graph, "weights", regression_batches()).gradient

    response = value_function(1e3, 4, rate=0.05, central=True)
    series = mlo.neumann(terms=4, rate=0.05)
    expected = found(series, SDPBackend.MATH)
    assert relative_error(found(response, SDPBackend.FLASH_ATTENTION), expected) < 1e-5
    with pytest.raises(RuntimeError, match=r"derivative for .* is not implemented"):
        found(series, SDPBackend.FLASH_ATTENTION)


@pytest.mark.parametrize(("central", "limit"), [(False, 2e-2), (True, 1e-3)])
def test_the_default_strength_suits_float32(central, limit):
    expected = hypergradient_of(curved(mlo.exact()), "above").gradient
    response = value_function(steps=30, rate=0.3, central=central)
    found = hypergradient_of(curved(response, dtype=torch.float32), "above")
    assert relative_error({n: t.double() for n, t in found.gradient.items()}, expected) < limit
    assert found.outcomes["x"].status is Status.CONVERGED


def test_negative_curvature_is_reported_as_growth():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lambda x, a: -(x.value * a.value).square().sum(),
            response=value_function(steps=5, rate=0.1),
        ),
        Problem(name="a", module=Vector(1.0), loss=lambda x: x.value.sum()),
    )
    assert hypergradient_of(graph, "a").outcomes["x"].status is Status.DIVERGED


def test_on_a_network_it_agrees_with_the_series():
    batches = regression_batches()
    make = functools.partial(value_function, 1e3, 5, rate=0.05, central=True)
    found = hypergradient_of(two_levels(network(), make()), "weights", batches).gradient
    series = mlo.neumann(terms=5, rate=0.05)
    expected = hypergradient_of(two_levels(network(), series), "weights", batches).gradient
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize(
    ("response", "label"),
    [
        (value_function(), "value_function(strength=100, steps=10)"),
        (value_function(1e3, 5, rate=0.1), "value_function(strength=1000, steps=5, rate=0.1)"),
        (
            value_function(central=True),
            "value_function(strength=100, steps=10, central=True)",
        ),
    ],
)
def test_labels(response, label):
    assert response.label == label
