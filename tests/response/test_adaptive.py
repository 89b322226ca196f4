import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

import mlo
from mlo import Context, Graph, Problem, ResponseError
from mlo import hypergradient as hypergradient_of
from mlo.context import context_of
from mlo.response.adaptive import adaptive
from tests.optimizers import DIFFERENTIABLE
from tests.programs import (
    Vector,
    counted,
    network,
    regression_batches,
    relative_error,
    two_levels,
)

WEIGHTS = torch.tensor([1.0, 2.0]).double()


def inner_loss(x, a):
    return (x * a).sin().sum() + (2 * (x - a)).cos().sum()


def program(make, steps, response):
    """Return a program whose lower problem has made some real updates, and its optimizer."""
    x, above = Vector(0.3, -0.7), Vector(0.4, 0.9)
    optimizer = make(list(x.parameters()))
    for _ in range(steps):
        inner_loss(x.value, above.value.detach()).backward()
        optimizer.step()
        optimizer.zero_grad()
    graph = Graph(
        Problem(
            name="x",
            module=x,
            loss=lambda x, above: inner_loss(x.value, above.value),
            optimizer=optimizer,
            response=response,
        ),
        Problem(name="above", module=above, loss=lambda x: WEIGHTS @ x.value),
    )
    return graph, optimizer


def one_update(graph, optimizer, a):
    """Return the upper loss after one real update with the upper variables at `a`; undo it."""
    x = graph.problem("x").module.value
    before, state = x.detach().clone(), optimizer.state_dict()
    kept = {k: v.clone() if torch.is_tensor(v) else v for k, v in optimizer.state[x].items()}
    try:
        inner_loss(x, a).backward()
        optimizer.step()
        return float(WEIGHTS @ x.detach())
    finally:
        optimizer.zero_grad()
        x.data.copy_(before)
        optimizer.load_state_dict(state)
        optimizer.state[x].clear()
        optimizer.state[x].update(kept)


@pytest.mark.parametrize("steps", [0, 1, 6])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_it_is_the_derivative_of_one_real_update(name, steps):
    graph, optimizer = program(DIFFERENTIABLE[name], steps, adaptive())
    found = hypergradient_of(graph, "above").gradient["value"]
    a = graph.problem("above").module.value.detach()
    for entry, direction in enumerate(1e-5 * torch.eye(2).double()):
        ahead = one_update(graph, optimizer, a + direction)
        behind = one_update(graph, optimizer, a - direction)
        assert float(found[entry]) == pytest.approx((ahead - behind) / 2e-5, rel=2e-5, abs=1e-8)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.3}, {"maximize": True}])
def test_for_plain_sgd_it_is_the_identity(options):
    answers = [
        hypergradient_of(program(lambda p: torch.optim.SGD(p, lr=0.1, **options), 0, r)[0], "above")
        for r in (adaptive(), mlo.identity())
    ]
    assert relative_error(answers[0].gradient, answers[1].gradient) < 1e-15


def trained_network(optimizer, response, steps=20):
    """Return a reweighting program whose model was trained a little."""
    model, batches = network(), regression_batches()
    live = optimizer(model.parameters())
    graph = two_levels(model, response, optimizer=live)
    weights = graph.problem("weights").module
    inputs, targets = batches["model"]
    for _ in range(steps):
        (weights(inputs).detach() * (model(inputs) - targets).square()).mean().backward()
        live.step()
        live.zero_grad()
    return graph, batches


@pytest.mark.parametrize("name", ["adam", "nesterov", "rmsprop, both", "nadam"])
def test_finite_differences_agree_on_a_network_and_in_the_order_of_their_error(name):
    def found(response):
        graph, batches = trained_network(DIFFERENTIABLE[name], response)
        return hypergradient_of(graph, "weights", batches).gradient

    exact = found(adaptive())
    errors = [
        relative_error(found(adaptive(product=mlo.FiniteDifference(radius=r))), exact)
        for r in (0.04, 0.02, 0.01)
    ]
    assert errors[0] < 0.01
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.1)


def test_announced_costs_are_those_spent():
    for product, forwards, label in (
        ("autograd", 1, "adaptive()"),
        ("finite_difference", 3, "adaptive() with finite_difference(radius=0.01) products"),
    ):
        response = adaptive(product=product)
        graph, counts = counted(program(DIFFERENTIABLE["adam"], 3, response)[0])
        outcome = hypergradient_of(graph, "above").outcomes["x"]
        assert counts["x"] == forwards
        assert response.evaluations == (2 if product == "autograd" else 3)
        assert outcome.solver == response.label == label
        assert outcome.converged


def test_parameters_that_the_optimizer_does_not_hold_pass_nothing_on():
    def answer(held):
        graph, batches = trained_network(lambda p: torch.optim.Adam(held(p), lr=0.01), adaptive())
        return hypergradient_of(graph, "weights", batches).gradient

    first, last = (answer(h) for h in (lambda p: list(p)[:2], lambda p: list(p)[2:]))
    assert relative_error(first, last) > 0.1


def test_a_first_step_of_adam_is_announced():
    graph, _ = program(DIFFERENTIABLE["adamw"], 0, adaptive())
    assert "AdamW has made no step" in hypergradient_of(graph, "above").outcomes["x"].message
    graph, _ = program(DIFFERENTIABLE["adamw"], 1, adaptive())
    assert "no step" not in hypergradient_of(graph, "above").outcomes["x"].message


def refused(optimizer, contexts=None):
    graph, _ = program(DIFFERENTIABLE["sgd"], 0, adaptive())
    lower = replace(graph.problem("x"), optimizer=optimizer)
    hypergradient_of(Graph(lower, graph.problem("above")), "above", contexts=contexts)


def test_without_an_optimizer_the_way_out_is_named():
    message = (
        "problem 'x': the response differentiates the updates of its optimizer, got none; give"
    )
    with pytest.raises(ResponseError, match=message):
        refused(None)


def test_an_optimizer_that_cannot_be_differentiated_is_named():
    message = "problem 'x': .* which SparseAdam does not offer"
    with pytest.raises(ResponseError, match=message):
        refused(torch.optim.SparseAdam)


def test_a_context_that_does_not_know_the_parameters_is_refused():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for context in (
        Context(problem="x", optimizer=optimizer),
        context_of("x", {"value": nn.Parameter(torch.ones(2))}, optimizer),
    ):
        with pytest.raises(ResponseError, match=r"problem 'x': adaptive\(\) needs the parameters"):
            refused(None, {"x": context})


def test_an_unknown_product_is_refused():
    with pytest.raises(ResponseError, match="product must be one of"):
        adaptive(product="exact")


@pytest.mark.parametrize("name", ["momentum", "adamw", "rmsprop, centered"])
def test_an_engine_trains_with_it(name):
    """The lower problem follows the upper variables, which must lead it to the target."""
    x, above = Vector(1.0, -1.0), Vector(0.0, 0.0)
    target = torch.tensor([0.5, -0.3]).double()
    graph = Graph(
        Problem(
            name="x",
            module=x,
            loss=lambda x, above: (x.value - above.value).square().sum() / 2,
            optimizer=DIFFERENTIABLE[name],
            response=adaptive(),
            steps=5,
        ),
        Problem(
            name="above",
            module=above,
            loss=lambda x: (x.value - target).square().sum() / 2,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
        ),
    )
    last = mlo.Engine(graph, device="cpu").run(rounds=600, show_progress=False)
    # At the start, with the lower problem solved, it is half of the target's square: 0.17.
    assert last.losses["above"] < 0.001
    assert last.outcomes["above"]["x"].converged
