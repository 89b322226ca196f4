"""Every solver as a linear map: of the upper loss, and as the adjoint of a Jacobian."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import mlo
from mlo import Graph, Problem, hypergradient
from mlo.testing.quadratic import UPPER, Quadratic
from mlo.testing.smooth import Smooth
from mlo.testing.strategies import NESTED, SHAPES
from tests.contract.reference import expansion, rate_for, start_of
from tests.contract.solvers import (
    DIFFERENTIATING,
    LAWFUL,
    MAIN_SHAPES,
    Entry,
    Setting,
    declared,
    experienced_adam,
    law_of,
    program_of,
    sgd,
)
from tests.programs import Vector, flat

every_entry = pytest.mark.parametrize("entry", DIFFERENTIATING, ids=str)
KINDS = {**dict.fromkeys(SHAPES, Smooth), **dict.fromkeys(NESTED, Quadratic)}
# The others behave like these two.
FEW = ["both paths", "diamond", "nested, all read by all"]


def weighing(graph: Graph, weights: dict[str, Tensor]) -> Graph:
    """Return the graph with ``Σ_n ⟨weights_n, θ_n⟩`` as upper loss."""

    def loss(**modules):
        terms = [weights[n].to(m.tensors[0].dtype) @ m.vector() for n, m in modules.items()]
        return torch.stack(terms).sum()

    problems = [
        replace(p, loss=loss, reads=tuple(weights)) if n == UPPER else p
        for n, p in graph.problems.items()
    ]
    return Graph(*problems, levels=graph.levels)


def answer(graph: Graph, weights: dict[str, Tensor]) -> Tensor:
    return flat(hypergradient(weighing(graph, weights), UPPER).gradient)


def random_weights(graph: Graph, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(problem.module.vector().numel(), generator=generator).double()
        for name, problem in graph.problems.items()
    }


def combined(one: dict[str, Tensor], other: dict[str, Tensor], a: float, b: float):
    return {name: a * one[name] + b * other[name] for name in one}


def example(entry: Entry, shape: str) -> tuple[Graph, Quadratic | Smooth, float]:
    program = program_of(shape, KINDS[shape])
    rate = rate_for(expansion(program))
    return declared(program, entry, Setting(rate=rate)), program, rate


@pytest.mark.parametrize("shape", FEW)
@every_entry
def test_scaling_the_upper_loss_scales_the_gradient(entry, shape):
    graph, _, _ = example(entry, shape)
    weights = random_weights(graph, 1)
    expected = answer(graph, weights)
    for factor in (1e-6, 1e6):
        found = answer(graph, combined(weights, weights, factor, 0.0))
        assert torch.allclose(found, factor * expected, rtol=1e-8, atol=1e-10 * factor)


@pytest.mark.parametrize("shape", FEW)
@pytest.mark.parametrize("entry", [e for e in DIFFERENTIATING if e.odd], ids=str)
def test_the_opposite_upper_loss_has_the_opposite_gradient(entry, shape):
    graph, _, _ = example(entry, shape)
    weights = random_weights(graph, 1)
    found = answer(graph, combined(weights, weights, -1.0, 0.0))
    assert torch.allclose(found, -answer(graph, weights), rtol=1e-9, atol=1e-11)


def additivity(entry: Entry, shape: str) -> float:
    """Return how far the gradient of a sum is from the sum of gradients, relatively."""
    graph, _, _ = example(entry, shape)
    one, other = random_weights(graph, 1), random_weights(graph, 2)
    expected = 2.0 * answer(graph, one) - 3.0 * answer(graph, other)
    found = answer(graph, combined(one, other, 2.0, -3.0))
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", FEW)
@pytest.mark.parametrize("entry", [e for e in DIFFERENTIATING if e.linear and not e.order], ids=str)
def test_the_gradient_of_a_sum_of_upper_losses_is_the_sum_of_gradients(entry, shape):
    assert additivity(entry, shape) < 1e-9


@pytest.mark.parametrize("entry", [e for e in DIFFERENTIATING if e.linear and e.order], ids=str)
def test_a_difference_is_linear_up_to_its_error(entry):
    # The radius is that of the perturbation, whatever the vector's norm: O(radius²) is not linear.
    assert 1e-9 < additivity(entry, "diamond") < 1e-3
    assert additivity(entry, "nested, all read by all") < 1e-9


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("cg, truncated", 1e-3),
        ("neumann auto", 1e-6),
        ("value function", 1e-6),
        ("value function, central", 1e-10),
        ("stationarity penalty", 1e-6),
    ],
)
def test_those_said_to_be_not_linear_are_not(name, least):
    (entry,) = [e for e in DIFFERENTIATING if e.name == name]
    assert not entry.linear
    assert additivity(entry, "diamond") > least


def test_a_one_sided_penalty_is_homogeneous_for_positive_factors_only():
    for name in ("value function", "stationarity penalty"):
        (entry,) = [e for e in DIFFERENTIATING if e.name == name]
        graph, _, _ = example(entry, "diamond")
        weights = random_weights(graph, 1)
        found = answer(graph, combined(weights, weights, -1.0, 0.0))
        assert not torch.allclose(found, -answer(graph, weights), rtol=1e-6)


@pytest.mark.parametrize("shape", MAIN_SHAPES)
@pytest.mark.parametrize("entry", [e for e in LAWFUL if e in DIFFERENTIATING], ids=str)
def test_it_is_the_adjoint_of_the_jacobian_of_its_law(entry, shape):
    """``⟨u, J w⟩ = ⟨Jᵀu, w⟩`` with J made forwards: on quadratics every error of a step is zero."""
    program = program_of(shape, Quadratic)
    found = expansion(program)
    rate = rate_for(found)
    graph = declared(program, entry, Setting(rate=rate, step=1.0))
    jacobian = law_of(found, entry, graph, rate).jacobian
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(jacobian.shape[1], generator=generator, dtype=torch.float64)
    weights = random_weights(graph, 6)
    along = torch.cat([weights[n] for n in found.lower]) @ (jacobian @ direction)
    along = along + weights[UPPER] @ direction
    assert float(answer(graph, weights) @ direction) == pytest.approx(float(along), rel=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("response", [mlo.exact(), mlo.cg(12)], ids=lambda r: r.label)
def test_it_is_the_adjoint_of_differences_of_the_solved_program(response, shape):
    entry = Entry(name="one", make=lambda _: response)
    graph, program, _ = example(entry, shape)
    start, step = start_of(program), 1e-4
    direction = random_weights(graph, 7)[UPPER]
    weights = random_weights(graph, 6)
    ahead, behind = (program.solution(start + sign * step * direction) for sign in (1.0, -1.0))
    along = sum(float(weights[n] @ (ahead[n] - behind[n])) for n in ahead) / (2 * step)
    along += float(weights[UPPER] @ direction)
    assert float(answer(graph, weights) @ direction) == pytest.approx(along, rel=1e-6)


def inner_loss(x: Tensor, a: Tensor) -> Tensor:
    return (x * a).sin().sum() + (2 * (x - a)).cos().sum() + x.square().sum()


def updated(optimizer_of, a: Tensor, steps: int) -> Tensor:
    """Return where real updates with the upper variables at `a` lead."""
    x = Vector(0.3, -0.7, 0.5)
    optimizer = prepared(optimizer_of, x)
    for _ in range(steps):
        optimizer.zero_grad()
        inner_loss(x.value, a).backward()
        optimizer.step()
    return x.value.detach()


def prepared(optimizer_of, x: Vector) -> Optimizer:
    before = x.value.detach().clone()
    optimizer = optimizer_of(list(x.parameters()), 0.1)
    with torch.no_grad():
        x.value.copy_(before)
    return optimizer


@pytest.mark.parametrize(
    ("response", "optimizer_of", "steps"),
    [
        (mlo.identity(), sgd, 1),
        (mlo.finite_difference(1e-4), sgd, 1),
        (mlo.adaptive(), sgd, 1),
        (mlo.adaptive(), experienced_adam, 1),
        (mlo.adaptive(product=mlo.FiniteDifference(radius=1e-4)), experienced_adam, 1),
        (mlo.unrolled(1), experienced_adam, 1),
        (mlo.unrolled(7), sgd, 7),
        (mlo.unrolled(7), experienced_adam, 7),
    ],
    ids=lambda value: getattr(value, "label", getattr(value, "__name__", None)),
)
def test_responses_to_updates_are_the_adjoint_of_differences_of_real_updates(
    response, optimizer_of, steps
):
    """Far from any minimum; the lower problem is a torch optimizer and nothing else."""
    x, a = Vector(0.3, -0.7, 0.5), Vector(0.4, 0.9, -0.2)
    weights = torch.tensor([1.0, 2.0, -0.5]).double()
    graph = Graph(
        Problem(
            name="x",
            module=x,
            loss=lambda x, a: inner_loss(x.value, a.value),
            optimizer=prepared(optimizer_of, x),
            response=response,
        ),
        Problem(name="a", module=a, loss=lambda x: weights @ x.value),
    )
    direction, step = torch.tensor([0.6, -0.3, 0.8]).double(), 1e-5
    start = a.value.detach()
    ahead, behind = (
        updated(optimizer_of, start + sign * step * direction, steps) for sign in (1.0, -1.0)
    )
    along = float(weights @ (ahead - behind)) / (2 * step)
    found = hypergradient(graph, "a").gradient["value"]
    assert float(found @ direction) == pytest.approx(along, rel=1e-6)
