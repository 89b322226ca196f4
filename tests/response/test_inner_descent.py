"""The descent itself, and what both responses that use it promise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mlo
from mlo import Context, Graph, Problem, ResponseError, Status
from mlo import hypergradient as hypergradient_of
from mlo.context import context_of
from mlo.inner import inner_of
from mlo.response import inner_descent
from mlo.response.inner_descent import descend, tilt_of
from mlo.response.stationarity import stationarity_penalty
from mlo.response.value_function import value_function
from mlo.testing.quadratic import UPPER, declare, random_quadratic
from mlo.testing.strategies import SHAPES, conditions, quadratics, seeds
from tests.programs import (
    Vector,
    flat,
    network,
    regression_batches,
    relative_error,
    same_bits,
    snapshot,
    solved_with,
    system,
    two_levels,
)

BILEVEL = {"x": [UPPER], UPPER: ["x"]}
# Curvatures lie in [1, 3], where these rates are stable and the descents end by their tolerance.
FAR = [
    value_function(10.0, 400, rate=0.4, tolerance=1e-11),
    value_function(10.0, 400, rate=0.4, tolerance=1e-11, central=True),
    stationarity_penalty(10.0, 1000, rate=0.4, tolerance=1e-11),
]
NEAR = [
    value_function(steps=3, rate=0.01),
    value_function(steps=3, rate=0.01, central=True),
    value_function(steps=1, rate=0.01, central=True),
    stationarity_penalty(steps=3, rate=0.01),
]
far = pytest.mark.parametrize("response", FAR, ids=lambda r: r.label)
near = pytest.mark.parametrize("response", NEAR, ids=lambda r: r.label)


@inner_of
def curved(solution, upstream):
    """A smooth convex loss, no quadratic, of two parameters, two upstream problems."""
    x, y = solution["x"], solution["y"]
    a, b = upstream["a"]["u"], upstream["b"]["u"]
    return (x - a).cosh().sum() + (0.3 * (y + b * x) ** 2).exp().sum() + (y * y).sum()


def place():
    solution = {"x": torch.tensor([0.3, -0.4]).double(), "y": torch.tensor([0.2, 0.6]).double()}
    upstream = {"a": {"u": torch.tensor([0.5, -0.1])}, "b": {"u": torch.tensor([0.7, 0.2])}}
    above = {problem: {"u": p["u"].double()} for problem, p in upstream.items()}
    vector = {"x": torch.tensor([1.0, -2.0]).double(), "y": torch.tensor([0.5, 3.0]).double()}
    return solution, above, vector


def joined(answer):
    return {f"{problem}.{n}": t for problem, params in answer.items() for n, t in params.items()}


@settings(max_examples=20)
@given(st.integers(2, 6), conditions, seeds, st.integers(1, 20), st.floats(0.1, 1.9))
def test_the_residual_contracts_by_the_known_factor(size, condition, seed, steps, fraction):
    matrix, vector = system(size, condition, seed)
    rate = fraction / float(torch.linalg.eigvalsh(matrix).max())
    found = descend(
        lambda y: {"w": matrix @ y["w"]},
        {"w": torch.zeros_like(vector)},
        {"w": vector},
        {"w": rate},
        steps=steps,
        tolerance=0.0,
    )
    contraction = torch.eye(size, dtype=torch.float64) - rate * matrix
    solution = -torch.linalg.solve(matrix, vector)
    error = torch.linalg.matrix_power(contraction, steps) @ solution
    assert torch.allclose(solution - found.point["w"], error, rtol=1e-9, atol=1e-12)
    before_the_last = torch.linalg.matrix_power(contraction, steps - 1) @ vector
    expected = float(before_the_last.norm() / vector.norm())
    assert float(found.residual) == pytest.approx(expected, rel=1e-7, abs=1e-12)
    assert not found.growing


def test_the_tilt_has_one_size_and_is_zero_for_a_zero_vector():
    for scale in (1e-12, 1.0, 1e12):
        tilt, penalty = tilt_of({"w": scale * torch.tensor([3.0, 4.0])}, 10.0)
        assert float(tilt["w"].norm()) == pytest.approx(0.1)
        assert float(penalty) == pytest.approx(50 * scale)
    tilt, penalty = tilt_of({"w": torch.zeros(2)}, 10.0)
    assert torch.equal(tilt["w"], torch.zeros(2))
    assert penalty == 0


@far
@pytest.mark.parametrize("shape", SHAPES)
def test_the_hypergradient_of_every_shape_is_the_closed_form(response, shape):
    @settings(max_examples=5)
    @given(quadratics(SHAPES[shape], condition=3.0))
    def check(program):
        graph, expected = solved_with(program, response)
        found = hypergradient_of(graph, UPPER)
        assert relative_error(found.gradient, expected) < 1e-9
        assert all(outcome.converged for outcome in found.outcomes.values())

    check()


@far
def test_the_answer_is_adjoint_to_the_jacobian(response):
    program = random_quadratic({"x": 4, UPPER: 3}, BILEVEL, condition=3.0)
    loss, generator = program.lower["x"], torch.Generator().manual_seed(0)

    @inner_of
    def inner(solution, upstream):
        x = solution["x"]
        return x @ (loss.curvature @ x / 2 + loss.couplings[UPPER] @ upstream["a"]["u"])

    u, v, x = (torch.randn(n, generator=generator).double() for n in (3, 4, 4))
    answer, _ = response(inner, {"x": x}, {"a": {"u": program.start}}, {"x": v}, Context())
    pulled = answer["a"]["u"] @ u
    assert float(pulled) == pytest.approx(float(v @ (program.jacobian() @ u)), rel=1e-9)


@near
@pytest.mark.parametrize("factor", [0.25, 3.7, 1e-9, 1e9])
def test_the_answer_scales_with_the_vector(response, factor):
    solution, above, vector = place()
    once, outcome = response(curved, solution, above, vector, Context())
    longer = {n: factor * t for n, t in vector.items()}
    scaled, other = response(curved, solution, above, longer, Context())
    expected = {n: factor * t for n, t in joined(once).items()}
    assert relative_error(joined(scaled), expected) < 1e-11
    assert other.residual == pytest.approx(outcome.residual)


def test_central_differences_are_odd_in_the_vector():
    solution, above, vector = place()
    response = value_function(1.0, 5, rate=0.1, central=True)
    once, _ = response(curved, solution, above, vector, Context())
    opposite = {n: -t for n, t in vector.items()}
    back, _ = response(curved, solution, above, opposite, Context())
    assert relative_error(joined(back), {n: -t for n, t in joined(once).items()}) < 1e-13


@near
def test_a_zero_vector_gives_exact_zeros_where_the_problem_has_not_converged(response):
    solution, above, vector = place()
    zero = {n: torch.zeros_like(t) for n, t in vector.items()}
    answer, outcome = response(curved, solution, above, zero, Context())
    assert all(torch.equal(t, torch.zeros_like(t)) for t in joined(answer).values())
    assert list(joined(answer)) == ["a.u", "b.u"]
    assert outcome.residual == 0.0


@near
def test_all_upstream_problems_at_once_are_each_alone(response):
    solution, above, vector = place()
    together, _ = response(curved, solution, above, vector, Context())
    for problem, params in above.items():

        @inner_of
        def alone(solution, upstream, fixed=above):
            return curved(solution, {**fixed, **upstream})

        answer, _ = response(alone, solution, {problem: params}, vector, Context())
        assert list(answer) == [problem]
        assert torch.allclose(answer[problem]["u"], together[problem]["u"], rtol=1e-10)


@near
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_in_half_precision_are_refused(response, dtype):
    model = nn.Linear(3, 1, dtype=dtype)
    with pytest.raises(ResponseError, match=f"parameter 'weight' is {dtype}, whose rounding hides"):
        response(curved, dict(model.named_parameters()), {}, {}, Context())


@near
def test_a_nan_is_not_turned_into_zero(response):
    """A library with this response replaces what autograd leaves out, and NaN with it, by zero."""

    @inner_of
    def inner(solution, upstream):
        return curved(solution, upstream) + (0 * solution["x"].sum() / 0) * upstream["a"]["u"].sum()

    solution, above, vector = place()
    answer, _ = response(inner, solution, above, vector, Context())
    assert torch.isnan(answer["a"]["u"]).all()
    graph = Graph(
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lambda x, a: ((x.value - a.value) ** 2 * (0 * a.value / 0)).sum(),
            response=response,
        ),
        Problem(name="a", module=Vector(2.0), loss=lambda x: x.value.sum()),
    )
    found = hypergradient_of(graph, "a")
    assert torch.isnan(found.gradient["value"]).all()
    assert found.outcomes["x"].status is Status.NON_FINITE


@near
def test_weights_buffers_gradients_and_generators_are_bitwise_untouched(response):
    model = network(nn.BatchNorm1d(6), nn.Dropout(0.3))
    graph = two_levels(model, response)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, generator = snapshot(graph), torch.get_rng_state()
    found = hypergradient_of(graph, "weights", regression_batches())
    assert float(flat(found.gradient).norm()) > 0
    assert same_bits(snapshot(graph), before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())


@near
def test_every_evaluation_uses_one_dropout_mask(response):
    masks = []

    class Recording(nn.Module):
        def forward(self, inputs):
            masks.append(torch.rand_like(inputs) < 0.5)
            return inputs * masks[-1] * 2

    hypergradient_of(two_levels(network(Recording()), response), "weights", regression_batches())
    _, first, *others = masks
    assert others
    assert all(torch.equal(mask, first) for mask in others)


@far
@pytest.mark.parametrize("maximize", [False, True])
def test_weight_decay_and_sign_of_the_optimizer_belong_to_the_objective(response, maximize):
    solution, above, vector = place()
    optimized = {n: nn.Parameter(t) for n, t in solution.items()}
    groups = [
        {"params": [optimized["x"]], "weight_decay": 0.5},
        {"params": [optimized["y"]], "weight_decay": 0.0},
    ]
    context = context_of("p", optimized, torch.optim.SGD(groups, lr=0.1, maximize=maximize))
    sign = -1.0 if maximize else 1.0

    @inner_of
    def quadratic(solution, upstream):
        x, y, a = solution["x"], solution["y"], upstream["a"]["u"]
        return sign * (x.square().sum() / 2 + (y - x).square().sum() / 2 + (x + 2 * y) @ a)

    place_above = {"a": above["a"]}
    expected, _ = mlo.exact()(quadratic, solution, place_above, vector, context)
    found, outcome = response(quadratic, solution, place_above, vector, context)
    assert relative_error(joined(found), joined(expected)) < 1e-9
    assert outcome.converged


@near
def test_decay_that_cannot_be_counted_is_said(response):
    solution, above, vector = place()
    _, outcome = response(curved, solution, above, vector, Context(unseen="decay is not counted"))
    assert outcome.message.endswith("decay is not counted")


@pytest.mark.parametrize(
    ("make", "bound"),
    [(value_function, 2.0), (stationarity_penalty, 2.0**0.5)],
    ids=["value_function", "stationarity_penalty"],
)
@pytest.mark.parametrize(("fraction", "diverged"), [(0.99, False), (1.01, True)])
def test_the_bound_on_the_rate_is_sharp_and_passing_it_is_reported(make, bound, fraction, diverged):
    program = random_quadratic({"x": 4, UPPER: 2}, BILEVEL, condition=3.0)
    largest = float(torch.linalg.eigvalsh(program.lower["x"].curvature).max())
    response = make(10.0, 300, rate=fraction * bound / largest)
    outcome = hypergradient_of(declare(program, {"x": response}), UPPER).outcomes["x"]
    assert (outcome.status is Status.DIVERGED) == diverged
    assert outcome.failed == diverged


@near
def test_a_flat_hessian_is_reported(response):
    @inner_of
    def linear(solution, upstream):
        return (solution["x"] * upstream["a"]["u"]).sum() + 0 * solution["y"].sum()

    solution, above, vector = place()
    _, outcome = response(linear, solution, {"a": above["a"]}, vector, Context())
    # One step evaluates no gradient that could have changed.
    expected = Status.TRUNCATED if "steps=1," in response.label else Status.ZERO_CURVATURE
    assert outcome.status is expected
    assert outcome.residual == pytest.approx(1.0)


@pytest.mark.parametrize("make", [value_function, stationarity_penalty])
def test_the_tolerance_stops_the_descent_and_nothing_else_is_spent(make):
    program = random_quadratic({"x": 4, UPPER: 2}, BILEVEL, condition=3.0)
    outcomes = {}
    for tolerance in (0.0, 1e-2, 1e-4):
        response = make(10.0, 150, rate=0.3, tolerance=tolerance)
        outcomes[tolerance] = hypergradient_of(declare(program, {"x": response}), UPPER).outcomes[
            "x"
        ]
    assert outcomes[0.0].iterations == 150
    assert outcomes[0.0].status is Status.TRUNCATED
    assert 1 < outcomes[1e-2].iterations < outcomes[1e-4].iterations < 150
    assert outcomes[1e-2].residual <= 1e-2
    assert outcomes[1e-2].status is Status.CONVERGED


@near
def test_on_an_accelerator_it_never_waits_for_a_number(response, monkeypatch):
    solution, above, vector = place()
    expected, _ = response(curved, solution, above, vector, Context())
    monkeypatch.setattr(inner_descent, "synchronous", lambda device: False)

    def waits(tensor, *arguments):
        raise AssertionError("the value of a tensor was read")

    for name in ("__bool__", "__float__", "__int__", "item"):
        monkeypatch.setattr(torch.Tensor, name, waits)
    answer, _ = response(curved, solution, above, vector, Context())
    monkeypatch.undo()
    assert same_bits(joined(answer), joined(expected))


@pytest.mark.parametrize("make", [value_function, stationarity_penalty])
def test_the_rate_is_the_problems_own_parameter_by_parameter(make):
    solution, above, vector = place()
    own = Context(rates={"x": 0.2, "y": torch.tensor(0.05)})
    one, _ = make(steps=1)(curved, solution, above, vector, own)
    with pytest.raises(ResponseError, match="needs a learning rate for 'y', got none"):
        make(steps=1)(curved, solution, above, vector, Context(rates={"x": 0.2}))
    other, _ = make(steps=1, rate=0.2)(curved, solution, above, vector, own)
    assert relative_error(joined(other), joined(one)) > 0.01


@pytest.mark.parametrize("make", [value_function, stationarity_penalty])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.0}, "strength must be > 0, got 0.0"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"rate": -1.0}, "rate must be > 0, got -1.0"),
        ({"tolerance": -1.0}, "tolerance must be >= 0, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(make, options, message):
    with pytest.raises(ResponseError, match=f"{make.__name__}: {message}"):
        make(**options)
