"""`unrolled` in a running engine and in `hypergradient`, against differences of whole runs."""

import pytest
import torch
from torch import nn

import mlo
from mlo import Engine, Graph, Problem
from mlo import hypergradient as hypergradient_of
from mlo.response.unrolled import unrolled
from tests.optimizers import DIFFERENTIABLE
from tests.programs import Vector, regression_batches, two_levels

CURVATURE = torch.tensor([1.0, 4.0]).double()
TARGET = torch.tensor([3.0, -1.0]).double()
RATE = 0.1


def bowl(response, steps, start=(1.0, 1.0)):
    """Return ``min_a ½|x - t|²`` over ``x = argmin ½ Σ λ x² - a x``."""
    return Graph(
        Problem(
            name="x",
            module=Vector(*start),
            loss=lambda x, a: (CURVATURE * x.value**2 / 2 - x.value * a.value).sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=RATE),
            response=response,
            steps=steps,
        ),
        Problem(
            name="a",
            module=Vector(0.5, -2.0),
            loss=lambda x: (x.value - TARGET).square().sum() / 2,
            optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        ),
    )


def slope(steps):
    """``∂x_T/∂a = ξ Σ_{t<T} (1 - ξλ)ᵗ``."""
    return (1 - (1 - RATE * CURVATURE) ** steps) / CURVATURE


@pytest.mark.parametrize(("steps", "kept"), [(4, None), (4, 2), (4, 9), (1, None)])
def test_an_engine_differentiates_the_updates_that_it_made(steps, kept):
    graph = bowl(unrolled(kept), steps)
    x, a = (graph.problem(n).module.value for n in ("x", "a"))
    engine = Engine(graph, device="cpu")
    for _ in range(3):
        before, start = a.detach().clone(), x.detach().clone()
        last = engine.run(rounds=1, show_progress=False)
        end = before / CURVATURE + (1 - RATE * CURVATURE) ** steps * (start - before / CURVATURE)
        assert torch.allclose(x, end, rtol=1e-12)
        gradient = slope(min(steps, kept or steps)) * (end - TARGET)
        assert torch.allclose(before - a, gradient, rtol=1e-12)
        assert last.outcomes["a"]["x"].converged
        assert "made again" not in last.outcomes["a"]["x"].message


@pytest.mark.parametrize("steps", [1, 5])
def test_hypergradient_makes_updates_of_its_own_and_takes_the_loss_where_they_end(steps):
    graph = bowl(unrolled(steps), 1)
    x, a = (graph.problem(n).module.value for n in ("x", "a"))
    found = hypergradient_of(graph, "a").gradient["value"]
    end = a / CURVATURE + (1 - RATE * CURVATURE) ** steps * (x - a / CURVATURE)
    assert torch.allclose(found, slope(steps) * (end - TARGET), rtol=1e-12)
    assert torch.equal(x, torch.ones(2).double())


class Reweighting:
    """Rounds of a network with dropout and batch normalisation on mini-batches."""

    def __init__(self, name, response, shift=0.0):
        torch.manual_seed(4)
        model = nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1)
        ).double()
        batches = [regression_batches(seed) for seed in range(3)]
        graph = two_levels(
            model,
            response,
            steps=4,
            optimizer=DIFFERENTIABLE[name],
            scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.8),
            batches=[b["model"] for b in batches],
        )
        weights = graph.problem("weights")
        self.weights = weights.module
        with torch.no_grad():
            first = next(self.weights.parameters())
            first += shift * torch.randn(first.shape, generator=torch.Generator().manual_seed(1))
        self.engine = Engine(
            Graph(
                graph.problem("model"),
                Problem(
                    name="weights",
                    module=weights.module,
                    loss=weights.loss,
                    batches=[batches[0]["weights"]],
                    optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
                ),
            ),
            device="cpu",
        )

    def loss(self):
        """Return the upper loss after the lower updates of a first round."""
        return float(self.engine.run(rounds=1, show_progress=False).losses["weights"])


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "rmsprop, momentum", "nadam"])
def test_it_is_the_derivative_of_a_whole_round(name):
    """Central differences of rounds that start from other upper variables, nothing else."""
    trained = Reweighting(name, unrolled())
    before = next(trained.weights.parameters()).detach().clone()
    trained.loss()
    gradient = before - next(trained.weights.parameters()).detach()
    direction = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    ahead, behind = (Reweighting(name, unrolled(), shift).loss() for shift in (1e-4, -1e-4))
    measured = (ahead - behind) / 2e-4
    assert float((gradient * direction).sum()) == pytest.approx(measured, rel=1e-5)
    assert abs(measured) > 1e-8


def test_an_engine_that_trains_far_from_the_optimum_reaches_the_goal():
    """With one lower update a round the implicit answer assumes a solution that is not there."""
    graph = bowl(unrolled(), 1, start=(50.0, -50.0))
    last = mlo.Engine(graph, device="cpu").run(rounds=600, show_progress=False)
    assert last.losses["a"] < 1e-10


@pytest.mark.parametrize("steps", [1, 3, 200])
def test_a_nested_program_is_differentiated_through_it(steps):
    """``c`` makes gradient steps within the objective of ``b``, whose Hessian they change."""
    graph = Graph(
        Problem(
            name="c",
            module=Vector(0.7),
            loss=lambda c, b: (c.value**2 - b.value * c.value).sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=RATE),
            response=unrolled(steps),
        ),
        Problem(
            name="b",
            module=Vector(0.2),
            loss=lambda c, b, a: (b.value**2 / 2 - a.value * b.value + c.value * b.value).sum(),
            response=mlo.exact(),
        ),
        Problem(name="a", module=Vector(0.4), loss=lambda b: (b.value - 3).square().sum() / 2),
    )
    found = hypergradient_of(graph, "a").gradient["value"]
    inner = (1 - (1 - 2 * RATE) ** steps) / 2  # ∂c_T/∂b
    expected = torch.tensor([(0.2 - 3) / (1 + 2 * inner)], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-12)
