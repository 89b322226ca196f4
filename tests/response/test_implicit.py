import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mlo
from mlo import Context, FiniteDifference, Graph, InverseProduct, Problem, ResponseError, Status
from mlo import hypergradient as hypergradient_of
from mlo.context import context_of
from mlo.response.implicit import implicit
from mlo.testing.quadratic import UPPER, declare, random_quadratic
from mlo.testing.strategies import SHAPES, quadratics
from tests.programs import Vector, flat, relative_error, solved_with

STEP_OPTIMIZERS = {
    "plain": {"lr": 0.1},
    "weight decay": {"lr": 0.1, "weight_decay": 0.3},
    "maximizing": {"lr": 0.1, "weight_decay": 0.3, "maximize": True},
}


@pytest.mark.parametrize("options", STEP_OPTIMIZERS.values(), ids=STEP_OPTIMIZERS)
@pytest.mark.parametrize("response", [mlo.identity(), mlo.finite_difference(1e-4)])
def test_one_step_responses_are_the_derivative_of_one_real_update(response, options):
    """Against full autograd through the update that torch.optim.SGD really makes."""
    start, above = torch.tensor([0.3, -0.7]).double(), Vector(0.4, 0.9)

    def inner_loss(x, a):
        return (x * a).sin().sum() + (x - a).pow(4).sum()

    x = Vector(*start.tolist())
    optimizer = torch.optim.SGD(x.parameters(), **options)
    inner_loss(x.value, above.value.detach()).backward()
    optimizer.step()
    a = above.value.detach().requires_grad_()
    variable = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(inner_loss(variable, a), variable, create_graph=True)
    sign = -1 if options.get("maximize") else 1
    update = start - 0.1 * (sign * gradient + options.get("weight_decay", 0.0) * start)
    assert torch.allclose(update, x.value)

    # The cotangent of a linear upper loss is the same before and after the step.
    weights = torch.tensor([1.0, 2.0]).double()
    (expected,) = torch.autograd.grad(weights @ update, a)
    x.value.data.copy_(start)
    graph = Graph(
        Problem(
            name="x",
            module=x,
            loss=lambda x, above: inner_loss(x.value, above.value),
            optimizer=optimizer,
            response=response,
        ),
        Problem(name="above", module=above, loss=lambda x: weights @ x.value),
    )
    found = hypergradient_of(graph, "above").gradient["value"]
    assert torch.allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("response", [mlo.exact(), mlo.cg(steps=20)], ids=lambda r: r.label)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@settings(max_examples=10)
@given(quadratics(SHAPES["bilevel"]), st.floats(0.1, 3.0))
def test_weight_decay_of_the_optimizer_is_part_of_the_hessian(
    response, optimizer, program, strength
):
    """Decay in the optimizer gives what the same decay in the loss gives."""
    loss = program.lower["x"]
    identity = torch.eye(len(loss.linear), dtype=torch.float64)
    regularised = type(loss)(
        curvature=loss.curvature + strength * identity,
        couplings=loss.couplings,
        linear=loss.linear,
    )
    other = type(program)(lower={"x": regularised}, upper=program.upper, start=program.start)
    graph, expected = solved_with(other, response)
    # Now the same solution, with the decay moved from the loss to the optimizer.
    moved = declare(program, {"x": response})
    with torch.no_grad():
        for p, q in zip(
            moved.problem("x").module.parameters(),
            graph.problem("x").module.parameters(),
            strict=True,
        ):
            p.copy_(q)
    lower = moved.problem("x")
    live = optimizer(lower.module.parameters(), lr=0.1, weight_decay=strength)
    contexts = {"x": context_of("x", lower.parameters(), live)}
    found = hypergradient_of(moved, UPPER, contexts=contexts)
    assert relative_error(found.gradient, expected) < 1e-9
    assert found.outcomes["x"].converged


def test_a_decay_of_some_parameters_only_touches_those():
    program = random_quadratic({"x": 3, UPPER: 2}, {"x": [UPPER], UPPER: ["x"]})
    graph = declare(program, {"x": mlo.exact()})
    decay = {"tensors.1": 0.8}
    found = hypergradient_of(graph, UPPER, contexts={"x": Context(problem="x", decay=decay)})
    matrix = program.lower["x"].curvature.clone()
    matrix[2, 2] += 0.8  # tensors.0 holds the first two entries
    cotangent = program.upper.curvature @ program.solution(program.start)["x"]
    cotangent = cotangent + program.upper.linear
    expected = -program.lower["x"].couplings[UPPER].T @ torch.linalg.solve(matrix, cotangent)
    assert torch.allclose(flat(found.gradient), expected, rtol=1e-10)


def test_any_solver_becomes_a_response():
    def halved(hvp, vector, context):
        return {n: t / 2 for n, t in vector.items()}, mlo.Outcome(solver="half", code=0)

    solver = InverseProduct(label="half", solve=halved, products=0)
    program = random_quadratic({"x": 3, UPPER: 2}, {"x": [UPPER], UPPER: ["x"]})
    found = hypergradient_of(declare(program, {"x": implicit(solver)}), UPPER)
    expected = hypergradient_of(declare(program, {"x": mlo.identity(rate=0.5)}), UPPER)
    assert relative_error(found.gradient, expected.gradient) < 1e-14
    assert found.outcomes["x"].solver == "half"


def test_any_product_can_be_given():
    program = random_quadratic({"x": 3, UPPER: 2}, {"x": [UPPER], UPPER: ["x"]})
    response = mlo.cg(steps=9, product=FiniteDifference(radius=1.0))
    graph, expected = solved_with(program, response)
    assert relative_error(hypergradient_of(graph, UPPER).gradient, expected) < 1e-9
    assert response.label == "cg(steps=9) with finite_difference(radius=1) products"


@pytest.mark.parametrize(
    ("response", "label", "evaluations"),
    [
        (mlo.finite_difference(), "finite_difference()", 2),
        (mlo.finite_difference(0.1), "finite_difference(radius=0.1)", 2),
        (mlo.finite_difference(rate=0.5), "finite_difference(rate=0.5)", 2),
        (mlo.finite_difference(0.1, rate=1.0), "finite_difference(radius=0.1, rate=1)", 2),
        (mlo.identity(), "identity()", 2),
        (mlo.neumann(), "neumann(terms=10)", 1 + 9 + 1),
        (mlo.cg(), "cg(steps=10)", 1 + 10 + 1),
        (mlo.exact(damping=0.1), "exact(damping=0.1)", None),
    ],
)
def test_labels_and_announced_costs(response, label, evaluations):
    assert response.label == label
    assert response.evaluations == evaluations
    assert response.differentiates


def test_a_learning_rate_is_asked_for_by_name():
    model = nn.Linear(1, 1)
    graph = Graph(
        Problem(
            name="x", module=model, loss=lambda x, above: (x.weight * above.weight).square().sum()
        ),
        Problem(name="above", module=nn.Linear(1, 1), loss=lambda x: x.weight.sum()),
    )
    message = "problem 'x': the response needs a learning rate for 'weight', got none; give the"
    with pytest.raises(ResponseError, match=message):
        hypergradient_of(graph, "above")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlo.finite_difference(0), "radius must be > 0, got 0"),
        (lambda: mlo.finite_difference(rate=-1), "rate must be > 0, got -1"),
        (lambda: mlo.identity(rate=0), "rate must be > 0, got 0"),
        (lambda: mlo.cg(product="exact"), "product must be one of"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ResponseError, match=message):
        make()


def test_the_outcome_tells_what_was_done():
    program = random_quadratic({"x": 3, UPPER: 2}, {"x": [UPPER], UPPER: ["x"]}, condition=5.0)
    outcome = hypergradient_of(declare(program, {"x": mlo.cg(steps=2)}), UPPER).outcomes["x"]
    assert outcome.status is Status.TRUNCATED
    assert outcome.iterations == 2
    assert 1e-3 < outcome.residual < 1
    assert outcome.message.startswith("cg(steps=2): the solve stopped before its tolerance")
    assert "after 2 products" in repr(outcome)


def test_a_plain_function_is_a_solver():
    def halved(hvp, vector, context):
        return {n: t / 2 for n, t in vector.items()}, mlo.Outcome(
            solver="halved", code=Status.CONVERGED
        )

    graph = Graph(
        Problem(
            name="x",
            module=Vector(3.0),
            loss=lambda x, a: (x.value - a.value).square().sum(),
            response=implicit(halved),
        ),
        Problem(name="a", module=Vector(3.0), loss=lambda x: x.value.square().sum()),
    )
    found = hypergradient_of(graph, "a")
    assert found.gradient["value"].item() == pytest.approx(6.0)
    assert found.outcomes["x"].solver == "halved"


@pytest.mark.parametrize("solver", [3, None])
def test_what_is_no_solver_is_refused(solver):
    with pytest.raises(ResponseError, match="solver must be an inverse-Hessian product"):
        implicit(solver)


@pytest.mark.parametrize("product", [None, 3, ["autograd"], "autogard"])
def test_what_is_no_product_is_refused(product):
    with pytest.raises(ResponseError, match="product must be one of"):
        mlo.cg(product=product)


@pytest.mark.parametrize("response", [mlo.cg(), mlo.exact(), mlo.neumann(60, 0.4)])
def test_a_lower_problem_that_is_maximised(response):
    """The maximum of -(x - a)² is at a, so that dF/da = 2a, whatever solves."""
    graph = Graph(
        Problem(
            name="x",
            module=Vector(3.0),
            loss=lambda x, a: -(x.value - a.value).square().sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1, maximize=True),
            response=response,
        ),
        Problem(name="a", module=Vector(3.0), loss=lambda x: x.value.square().sum()),
    )
    found = hypergradient_of(graph, "a")
    assert found.gradient["value"].item() == pytest.approx(6.0)
    assert found.outcomes["x"].converged


def test_decay_that_cannot_be_counted_is_said():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(3.0),
            loss=lambda x, a: (x.value - a.value).square().sum(),
            optimizer=lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
            response=mlo.cg(),
        ),
        Problem(name="a", module=Vector(3.0), loss=lambda x: x.value.square().sum()),
    )
    message = hypergradient_of(graph, "a").outcomes["x"].message
    assert "decoupled weight decay 0.5 of AdamW is not counted" in message
