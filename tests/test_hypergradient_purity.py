"""A hypergradient changes nothing: weights, buffers, gradients, and how random numbers go on."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import mlo
from mlo import Context, Graph, Problem, hypergradient
from mlo.point import Point
from mlo.sweep import sweep
from tests.programs import (
    Vector,
    network,
    regression_batches,
    relative_error,
    same_bits,
    snapshot,
    two_levels,
)

RESPONSES = [
    mlo.finite_difference(rate=0.1),
    mlo.identity(rate=0.1),
    mlo.neumann(terms=3, rate=0.01),
    mlo.neumann(terms=3, rate=0.01, product="finite_difference"),
    mlo.cg(steps=3),
    mlo.cg(steps=3, product="finite_difference"),
    mlo.exact(),
]
every_response = pytest.mark.parametrize("response", RESPONSES, ids=lambda r: r.label)


@every_response
def test_weights_buffers_and_gradients_are_bitwise_untouched(response):
    model = network(nn.BatchNorm1d(6), nn.Dropout(0.3))
    graph = two_levels(model, response)
    for problem in graph.problems.values():
        for position, parameter in enumerate(problem.module.parameters()):
            parameter.grad = torch.full_like(parameter, float(position))
    identities = {id(p) for problem in graph.problems.values() for p in problem.module.parameters()}
    before = snapshot(graph)
    hypergradient(graph, "weights", regression_batches())
    assert same_bits(snapshot(graph), before)
    assert int(model[1].num_batches_tracked) == 0
    for problem in graph.problems.values():
        for position, parameter in enumerate(problem.module.parameters()):
            assert id(parameter) in identities
            assert parameter.requires_grad
            assert torch.equal(parameter.grad, torch.full_like(parameter, float(position)))


@every_response
def test_batchnorm_is_evaluated_in_train_mode_and_stays_in_it(response):
    model = network(nn.BatchNorm1d(6))
    graph = two_levels(model, response)
    trained = hypergradient(graph, "weights", regression_batches()).gradient
    assert model.training
    model.eval()
    evaluated = hypergradient(graph, "weights", regression_batches()).gradient
    assert not model.training
    assert relative_error(trained, evaluated) > 0.01


@pytest.mark.parametrize("failing_call", [1, 2])
@pytest.mark.parametrize(
    "response", [mlo.finite_difference(rate=0.1), mlo.cg(steps=2, product="finite_difference")]
)
def test_weights_are_bitwise_equal_after_an_exception_inside_a_difference(failing_call, response):
    calls = []
    x, above = Vector(0.1, 0.2, 0.3), Vector(0.7)

    def loss(x, above):
        calls.append(x.value.detach().clone())
        if len(calls) == failing_call:
            raise FloatingPointError("out of luck")
        return (x.value - above.value).pow(4).sum()

    graph = Graph(
        Problem(name="x", module=x, loss=loss, response=response),
        Problem(name="above", module=above, loss=lambda x: x.value.exp().sum()),
    )
    parameter, before = x.value, snapshot(graph)
    with pytest.raises(FloatingPointError, match="out of luck"):
        hypergradient(graph, "above")
    assert len(calls) == failing_call
    # The pass really stood at perturbed weights when it was interrupted.
    assert not torch.equal(calls[-1], before["x.value"])
    assert x.value is parameter
    assert same_bits(snapshot(graph), before)
    assert x.value.grad is None


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_an_optimizer_of_the_problem_is_only_read(optimizer):
    model = network()
    live = optimizer(model.parameters(), lr=0.1)
    graph = two_levels(model, mlo.finite_difference(), optimizer=live)
    hypergradient(graph, "weights", regression_batches())
    assert live.state_dict()["state"] == {}
    assert live.param_groups[0]["lr"] == 0.1


@every_response
def test_two_calls_with_one_seed_give_bitwise_the_same(response):
    graph = two_levels(network(nn.Dropout(0.5)), response)
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(hypergradient(graph, "weights", regression_batches()).gradient)
    assert same_bits(answers[0], answers[1])
    assert not same_bits(answers[0], answers[2])


def test_finite_differences_agree_with_autograd_under_dropout():
    batches = regression_batches()
    answers = []
    for response in (mlo.finite_difference(0.001, rate=0.1), mlo.identity(rate=0.1)):
        graph = two_levels(network(nn.Dropout(0.5)), response)
        torch.manual_seed(3)
        answers.append(hypergradient(graph, "weights", batches).gradient)
    assert relative_error(*answers) < 1e-5


def test_an_evaluation_without_gradients_around_it_changes_nothing():
    graph, batches = two_levels(network(), mlo.cg(steps=2)), regression_batches()
    expected = hypergradient(graph, "weights", batches).gradient
    with torch.no_grad():
        assert same_bits(hypergradient(graph, "weights", batches).gradient, expected)
        assert not torch.is_grad_enabled()


class RecordingDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.masks = []

    def forward(self, inputs):
        mask = torch.rand_like(inputs) < 0.5
        self.masks.append(mask)
        return inputs * mask * 2


@pytest.mark.parametrize(
    ("response", "evaluations"),
    [
        (mlo.finite_difference(rate=0.1), 2),
        (mlo.neumann(terms=3, rate=0.1, product="finite_difference"), 6),
    ],
)
def test_all_sides_of_the_differences_use_one_dropout_mask(response, evaluations):
    dropout = RecordingDropout()
    hypergradient(two_levels(network(dropout), response), "weights", regression_batches())
    above, *inner = dropout.masks
    assert len(inner) == evaluations
    assert all(torch.equal(mask, inner[0]) for mask in inner)
    assert not torch.equal(above, inner[0])


def test_draws_of_python_and_numpy_are_shared_too():
    drawn = []

    def loss(x, above):
        drawn.append((random.random(), float(np.random.rand())))
        return (x.value - above.value).pow(4).sum()

    graph = Graph(
        Problem(name="x", module=Vector(0.1), loss=loss, response=mlo.finite_difference(rate=0.1)),
        Problem(name="above", module=Vector(0.7), loss=lambda x: x.value.exp().sum()),
    )
    hypergradient(graph, "above")
    assert len(drawn) == 2
    assert drawn[0] == drawn[1]


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed_all():
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)


@every_response
def test_generators_go_on_as_if_each_loss_had_run_once(response):
    def noisy(name, others):
        def loss(**modules):
            scale = sum(draws())
            return (scale * sum(m.value - 1 for m in modules.values())).square().sum()

        return {"name": name, "module": Vector(0.2, 0.4), "loss": loss, "reads": (name, *others)}

    graph = Graph(
        Problem(**noisy("x", ["y", "above"]), response=response),
        Problem(**noisy("y", ["above"]), response=response),
        Problem(**noisy("above", ["x", "y"])),
    )
    order = ("above", *graph.sweeps["above"].order)
    values = {n: p.parameters() for n, p in graph.problems.items()}
    contexts = {n: Context(problem=n) for n in order}
    seed_all()
    losses = {n: graph.pure_loss(n) for n in order}
    sweep(graph, "above", Point(values=values, batches={}, contexts=contexts, losses=losses))
    after = draws()
    seed_all()
    for _ in range(3):
        draws()
    assert after == draws()
    # The function that users call leaves the generators as they were.
    seed_all()
    hypergradient(graph, "above")
    after = draws()
    seed_all()
    assert after == draws()


SOLVERS = [mlo.cg(), mlo.neumann(200, 0.5), mlo.exact(), mlo.cg(product="finite_difference")]


@pytest.mark.parametrize("response", SOLVERS, ids=lambda r: r.label)
def test_two_problems_whose_cotangents_are_one_tensor_do_not_overwrite_each_other(response):
    """Autograd hands out one tensor for both terms of a sum, and a response owns its vector."""
    graph = Graph(
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lambda x, a: (x.value - a.value).square().sum(),
            response=response,
        ),
        Problem(
            name="y",
            module=Vector(2.0),
            loss=lambda y, a: (y.value - 2 * a.value).square().sum(),
            response=response,
        ),
        Problem(name="a", module=Vector(1.0), loss=lambda x, y: (x.value + y.value).square().sum()),
    )
    found = hypergradient(graph, "a").gradient["value"]
    assert torch.allclose(found, torch.tensor([18.0]).double(), rtol=1e-6)


@pytest.mark.parametrize("response", SOLVERS, ids=lambda r: r.label)
def test_a_cotangent_that_is_passed_on_is_not_overwritten(response):
    """a → b* → c*, F = (b + c)²: the cotangent of b waits while c answers to it."""
    graph = Graph(
        Problem(
            name="c",
            module=Vector(0.6),
            loss=lambda c, b: (c.value - 2 * b.value).square().sum(),
            response=response,
        ),
        Problem(
            name="b",
            module=Vector(0.2),
            loss=lambda b, c, a: (b.value - a.value).square().sum() + c.value.square().sum(),
            response=mlo.exact(),
        ),
        Problem(name="a", module=Vector(1.0), loss=lambda b, c: (b.value + c.value).square().sum()),
    )
    b = 0.2
    with torch.no_grad():
        graph.problem("b").module.value.fill_(b)
        graph.problem("c").module.value.fill_(2 * b)
    # b* = a / 5 and c* = 2 b*, so F = (3 a / 5)².
    found = hypergradient(graph, "a").gradient["value"]
    assert torch.allclose(found, torch.tensor([2 * 9 / 25]).double(), rtol=1e-5)
