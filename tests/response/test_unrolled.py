import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlo import Outcome, ResponseError, tree
from mlo.context import Context, context_of
from mlo.inner import inner_of
from mlo.response.implicit import exact
from mlo.response.unrolled import unroll, unrolled
from mlo.testing.strategies import conditions, seeds
from tests.optimizers import DIFFERENTIABLE
from tests.programs import system

RATE = 0.1


class Quadratic:
    """``½θᵀHθ + θᵀBa + cᵀθ``, its gradient descent in closed form."""

    def __init__(self, size=4, condition=10.0, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        self.matrix = (system(size, condition, seed)[0] / condition).to(dtype)
        self.coupling = torch.randn(size, 3, generator=generator, dtype=torch.float64).to(dtype)
        self.linear = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        self.start = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        self.above = torch.randn(3, generator=generator, dtype=torch.float64).to(dtype)
        self.vector = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    @property
    def inner(self):
        def loss(own, above):
            x = own["x"]
            force = self.linear + self.coupling @ above["a"]["a"]
            return x @ self.matrix @ x / 2 + x @ force

        return inner_of(loss)

    def contraction(self, steps, rate=RATE):
        identity = torch.eye(len(self.start), dtype=self.start.dtype)
        return torch.linalg.matrix_power(identity - rate * self.matrix, steps)

    def jacobian(self, steps, rate=RATE):
        """``∂θ_T/∂a = -ξ Σ_{t<T} (I - ξH)ᵗ B``."""
        powers = [self.contraction(t, rate) for t in range(steps)]
        return -rate * torch.stack(powers).sum(0) @ self.coupling

    def implicit(self):
        return -torch.linalg.solve(self.matrix, self.coupling)


def context_for(start, make=None):
    parameter = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([parameter], lr=RATE) if make is None else make([parameter])
    return context_of("x", {"x": parameter}, optimizer)


def answer(problem, response, context, vector=None):
    found, outcome = response(
        problem.inner,
        {"x": problem.start},
        {"a": {"a": problem.above}},
        {"x": problem.vector if vector is None else vector},
        context,
    )
    assert isinstance(outcome, Outcome)
    return found["a"]["a"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), conditions, seeds, st.integers(1, 12))
def test_gradient_descent_on_a_quadratic_has_a_closed_form(size, condition, seed, steps):
    problem = Quadratic(size, condition, seed)
    found = answer(problem, unrolled(steps), context_for(problem.start))
    assert torch.allclose(found, problem.vector @ problem.jacobian(steps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_precisions(dtype):
    problem = Quadratic(dtype=dtype)
    found = answer(problem, unrolled(9), context_for(problem.start))
    expected = problem.vector @ problem.jacobian(9)
    assert found.dtype == dtype
    assert torch.allclose(found, expected, rtol=100 * torch.finfo(dtype).eps)


def test_the_distance_to_the_implicit_response_shrinks_by_one_minus_rate_times_eigenvalue():
    """``∂θ_T/∂a - ∂θ*/∂a = (I - ξH)ᵀ H⁻¹B``, led by the smallest eigenvalue in the end."""
    problem = Quadratic(size=4, condition=5.0)
    rate = 0.5
    context = context_for(problem.start, lambda p: torch.optim.SGD(p, lr=rate))
    implicit = problem.vector @ problem.implicit()
    errors = []
    for steps in (5, 40, 41, 80):
        found = answer(problem, unrolled(steps), context)
        law = -problem.vector @ problem.contraction(steps, rate) @ problem.implicit()
        assert torch.allclose(found - implicit, law, rtol=1e-7, atol=1e-13)
        errors.append((found - implicit).norm())
    smallest = torch.linalg.eigvalsh(problem.matrix)[0]
    assert float(errors[2] / errors[1]) == pytest.approx(float(1 - rate * smallest), rel=1e-3)
    assert float(errors[3] / errors[2]) == pytest.approx(float(1 - rate * smallest) ** 39, rel=0.02)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_far_from_the_optimum_it_is_the_derivative_of_training_and_the_implicit_one_is_not(decay):
    problem = Quadratic()
    context = context_for(
        100 * problem.start, lambda p: torch.optim.SGD(p, lr=RATE, weight_decay=decay)
    )
    problem.start = 100 * problem.start
    # A loss that is not quadratic, so that it matters where the updates are.
    inner = inner_of(lambda own, above: problem.inner(own, above) + own["x"].sin().sum())

    def trained(a):
        parameter = nn.Parameter(problem.start.clone())
        optimizer = torch.optim.SGD([parameter], lr=RATE, weight_decay=decay)
        for _ in range(5):
            inner({"x": parameter}, {"a": {"a": a}}).backward()
            optimizer.step()
            optimizer.zero_grad()
        return problem.vector @ parameter.detach()

    def found(response):
        return response(
            inner,
            {"x": problem.start},
            {"a": {"a": problem.above}},
            {"x": problem.vector},
            context,
        )[0]["a"]["a"]

    directions = 1e-4 * torch.eye(3).double()
    measured = torch.stack(
        [(trained(problem.above + d) - trained(problem.above - d)) / 2e-4 for d in directions]
    )
    assert torch.allclose(found(unrolled(5)), measured, rtol=1e-6)
    assert (found(exact()) - measured).norm() > 0.3 * measured.norm()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_it_can_be_differentiated_again(name):
    """As a program that is nested must."""
    problem = Quadratic(size=3)
    context = context_for(problem.start, DIFFERENTIABLE[name])
    inner = inner_of(lambda own, above: problem.inner(own, above) + (own["x"] ** 4).sum())

    def total(a):
        end = unroll(inner, {"x": problem.start}, {"a": {"a": a}}, context, 3)["x"]
        return (problem.vector * end).sin().sum()

    assert torch.autograd.gradcheck(total, problem.above.clone().requires_grad_(), rtol=1e-4)
    assert torch.autograd.gradgradcheck(
        total, problem.above.clone().requires_grad_(), rtol=1e-4, atol=1e-6
    )


def test_the_second_derivative_of_a_quadratic_is_zero_through_gradient_descent():
    problem = Quadratic()
    above = problem.above.clone().requires_grad_()
    context = context_for(problem.start)
    end = unroll(problem.inner, {"x": problem.start}, {"a": {"a": above}}, context, 4)["x"]
    (first,) = torch.autograd.grad((end**2).sum() / 2, above, create_graph=True)
    jacobian = problem.jacobian(4)
    assert torch.allclose(first, end @ jacobian)
    (second,) = torch.autograd.grad(first @ problem.above, above)
    assert torch.allclose(second, jacobian.T @ jacobian @ problem.above)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-3, 3), st.sampled_from(["sgd", "adam", "nesterov", "rmsprop"]))
def test_it_is_linear_in_the_vector_and_the_adjoint_of_the_jacobian(seed, factor, name):
    problem = Quadratic(seed=seed)
    context = context_for(problem.start, DIFFERENTIABLE[name])
    one, two = problem.vector, problem.linear
    joined = answer(problem, unrolled(3), context, one + factor * two)
    parts = answer(problem, unrolled(3), context, one)
    parts = parts + factor * answer(problem, unrolled(3), context, two)
    assert torch.allclose(joined, parts, rtol=1e-9, atol=1e-11)

    def end(a):
        return unroll(problem.inner, {"x": problem.start}, {"a": {"a": a}}, context, 3)["x"]

    direction = 1e-6 * torch.ones(3).double()
    along = (end(problem.above + direction) - end(problem.above - direction)) / 2
    found = answer(problem, unrolled(3), context) @ direction
    assert torch.allclose(found, problem.vector @ along, rtol=1e-3, atol=1e-10)


def test_without_a_gradient_above_only_the_end_point_is_computed():
    problem = Quadratic()
    context = context_for(problem.start)
    response = unrolled(4)
    assert response.advances
    upstream = {"a": {"a": problem.above}}
    end = response.solution(problem.inner, {"x": problem.start}, upstream, context)["x"]
    assert not end.requires_grad
    force = problem.linear + problem.coupling @ problem.above
    x = problem.start
    for _ in range(4):
        x = x - RATE * (problem.matrix @ x + force)
    assert torch.allclose(end, x, rtol=1e-13)
    followed = response.solution(
        problem.inner, {"x": problem.start}, {"a": tree.leaves(upstream["a"])}, context
    )["x"]
    assert torch.equal(followed.detach(), end)


def test_parameters_without_a_gradient_are_passed_over_and_those_not_held_stay():
    used, unused, free = (nn.Parameter(torch.ones(2).double()) for _ in range(3))
    parameters = {"used": used, "unused": unused, "free": free}
    optimizer = torch.optim.SGD([used, unused], lr=RATE, weight_decay=0.5)
    context = context_of("x", parameters, optimizer)
    above = torch.ones(2).double().requires_grad_()
    inner = inner_of(lambda own, up: (own["used"] * own["free"] * up["a"]["a"]).sum())
    end = unroll(inner, tree.constants(parameters), {"a": {"a": above}}, context, 2)
    assert torch.equal(end["unused"], unused)
    assert torch.equal(end["free"], free)
    assert not end["unused"].requires_grad
    assert torch.allclose(torch.autograd.grad(end["used"].sum(), above)[0], above * -0.195)
    found, _ = unrolled(2)(
        inner,
        tree.constants(parameters),
        {"a": {"a": above.detach()}},
        tree.zeros_like(parameters) | {"free": torch.ones(2).double()},
        context,
    )
    assert not found or not found["a"]["a"].any()


def test_a_loss_that_reads_nothing_above_answers_nothing():
    problem = Quadratic()
    inner = inner_of(lambda own, above: (own["x"] ** 2).sum())
    found, _ = unrolled(2)(
        inner,
        {"x": problem.start},
        {"a": {"a": problem.above}},
        {"x": problem.vector},
        context_for(problem.start),
    )
    assert found == {}


@pytest.mark.parametrize("name", ["momentum", "adamw, amsgrad", "nadam"])
def test_nothing_outside_is_changed(name):
    problem = Quadratic()
    context = context_for(problem.start, DIFFERENTIABLE[name])
    (parameter,) = context.parameters.values()
    parameter.grad = problem.linear.clone()
    context.optimizer.step()
    state = {k: torch.as_tensor(v).clone() for k, v in context.optimizer.state[parameter].items()}
    before = parameter.detach().clone()
    first = answer(problem, unrolled(3), context)
    assert torch.equal(first, answer(problem, unrolled(3), context))
    assert torch.equal(parameter, before)
    assert torch.equal(parameter.grad, problem.linear)
    for key, value in context.optimizer.state[parameter].items():
        assert torch.equal(torch.as_tensor(value), state[key])


def test_labels_and_announced_costs():
    assert (unrolled().label, unrolled().evaluations) == ("unrolled()", None)
    assert (unrolled(5).label, unrolled(5).evaluations) == ("unrolled(steps=5)", 10)
    assert unrolled().differentiates


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(ResponseError, match="unrolled: steps must be an integer >= 1, got"):
        unrolled(steps)


def test_what_cannot_be_unrolled_is_refused_with_the_way_out():
    problem = Quadratic()
    with pytest.raises(
        ResponseError, match=r"problem 'x': .* say how many .* unrolled\(steps=10\)"
    ):
        answer(problem, unrolled(), context_for(problem.start))
    with pytest.raises(ResponseError, match=r"problem 'x': .* got none; give the problem an"):
        answer(problem, unrolled(3), Context(problem="x"))
    muon = Context(problem="x", optimizer=torch.optim.Muon([nn.Parameter(torch.ones(2, 2))]))
    with pytest.raises(ResponseError, match=r"problem 'x': .* which Muon does not offer"):
        answer(problem, unrolled(3), muon)
