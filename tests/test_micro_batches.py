"""Several batches of one update: their random numbers, their memory, their running statistics."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import mlo
from mlo import Engine, Graph, Problem
from mlo.micro_batches import MicroBatches, joined, parts
from tests.programs import Vector, network, relative_error, two_levels


def sgd(lr=0.1):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return inputs, inputs.sum(1, keepdim=True).sin()


def runnable(graph, accumulate, batches):
    problems = [
        replace(p, batches=batches[n], accumulate=accumulate.get(n, 1), optimizer=sgd())
        for n, p in graph.problems.items()
    ]
    return Graph(*problems, levels=graph.levels)


@given(st.lists(st.tuples(st.floats(0.1, 3.0), st.text()), min_size=1, max_size=5))
@settings(max_examples=30)
def test_joined_batches_have_weights_over_their_number(drawn):
    batch = joined(drawn)
    found = parts(batch)
    assert [b for _, b in found] == [b for _, b in drawn]
    assert [w for w, _ in found] == [w / len(drawn) for w, _ in drawn]
    assert isinstance(batch, MicroBatches) == (len(drawn) > 1 or drawn[0][0] != 1.0)


def dropped(response):
    """A linear model behind dropout: its loss is quadratic in the weights, for given masks."""

    def train_loss(model, weights, batch):
        errors = (model(batch[0]) - batch[1]).square()
        return (weights(batch[0]) * errors).mean() + 2 * model[1].weight.square().sum()

    def valid_loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1, bias=False)).double()
    weights = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid(), nn.Dropout(0.3)).double()
    return Graph(
        Problem(name="model", module=model, loss=train_loss, response=response),
        Problem(name="weights", module=weights, loss=valid_loss),
    )


# Their answers at convergence are those of the second, for given masks.
SAME_ON_QUADRATICS = [
    (mlo.exact(product="finite_difference"), mlo.exact()),
    (mlo.cg(steps=3), mlo.exact()),
    (mlo.neumann(terms=80, rate=0.15), mlo.exact()),
    (mlo.nystrom(rank=3, damping=1.0), mlo.exact(damping=1.0)),
    (mlo.value_function(1e6, 80, rate=0.15, tolerance=1e-9), mlo.exact()),
    (mlo.value_function(100, 80, rate=0.15, tolerance=1e-9, central=True), mlo.exact()),
    (mlo.stationarity_penalty(1e6, 80, rate=0.15, tolerance=1e-9), mlo.exact()),
    (mlo.finite_difference(), mlo.identity()),
]


@pytest.mark.parametrize(("response", "same"), SAME_ON_QUADRATICS, ids=lambda r: r.label)
def test_every_evaluation_of_a_micro_batch_has_the_same_masks(response, same):
    """With other masks in any two evaluations the solvers would not agree."""
    found = []
    for each in (same, response):
        graph = dropped(each)
        batches = {name: [rows(4, seed) for seed in range(3)] for name in graph.problems}
        engine = Engine(runnable(graph, {"model": 3, "weights": 2}, batches), device="cpu")
        torch.manual_seed(7)
        engine.update("model")
        found.append(engine.update("weights").gradient)
    assert relative_error(found[1], found[0]) < 1e-5


def test_the_masks_of_the_micro_batches_differ():
    masks = []

    class Watched(nn.Dropout):
        def forward(self, inputs):
            dropped = super().forward(inputs)
            masks.append(tuple((dropped != 0).flatten().tolist()))
            return dropped

    def loss(model, weights, batch):
        return (weights(batch) * model(batch).square()).mean()

    def upper_loss(model, batch):
        return model[1](batch).square().mean()

    model = nn.Sequential(Watched(0.5), nn.Linear(8, 1)).double()
    weights = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid()).double()
    graph = Graph(
        Problem(name="model", module=model, loss=loss, response=mlo.finite_difference()),
        Problem(name="weights", module=weights, loss=upper_loss),
    )
    ones = [torch.ones(8, 8, dtype=torch.float64)]
    engine = Engine(runnable(graph, {"model": 2}, {"model": ones, "weights": ones}), device="cpu")
    engine.update("model")
    assert len(masks) == len(set(masks)) == 2
    masks.clear()
    engine.update("weights")
    # Both sides of the difference see the masks of their micro-batch.
    assert len(masks) == 4
    assert sorted(masks.count(mask) for mask in set(masks)) == [2, 2]


class Held:
    """What a backward pass needs, counted for as long as it is held."""

    alive = 0

    def __init__(self, tensor):
        self.tensor = tensor
        Held.alive += 1

    def __del__(self):
        Held.alive -= 1


@pytest.mark.parametrize("role", ["alone", "reads another", "upper"])
def test_micro_batches_do_not_hold_each_others_graphs(role):
    before_each = []

    def watched(value):
        before_each.append(Held.alive)
        with saved_tensors_hooks(Held, lambda held: held.tensor):
            return value().square().sum()

    losses = {
        "alone": lambda x, batch: watched(lambda: x.value.exp() * batch),
        "reads another": lambda x, y, batch: watched(lambda: x.value.exp() * y.value * batch),
        "upper": lambda x, y, batch: watched(lambda: x.value.exp() * y.value * batch),
    }
    other = {
        "reads another": lambda y: y.value.square().sum(),
        "upper": lambda y, x: (y.value - x.value).square().sum(),
    }
    x = Problem(
        name="x",
        module=Vector(0.1, 0.2),
        loss=losses[role],
        batches=[1.0, 2.0],
        accumulate=4,
        optimizer=sgd(1e-3),
    )
    if role == "alone":
        graph = Graph(x)
    else:
        y = Problem(name="y", module=Vector(1.0, 1.0), loss=other[role], optimizer=sgd())
        graph = Graph(x, y, levels={"x": int(role == "upper"), "y": int(role != "upper")})
    engine = Engine(graph, device="cpu")
    engine.update("x")
    assert before_each == [0, 0, 0, 0]
    assert Held.alive == 0


@pytest.mark.parametrize("reads_another", [False, True])
def test_running_statistics_move_once_a_micro_batch(reads_another):
    batches = [rows(4, seed) for seed in range(6)]

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    def loss_with_other(model, other, batch):
        return loss(model, batch) + other.value.square().sum()

    problems = [
        Problem(
            name="model",
            module=network(nn.BatchNorm1d(6)),
            loss=loss_with_other if reads_another else loss,
            batches=batches,
            accumulate=3,
            optimizer=sgd(),
        )
    ]
    if reads_another:
        problems.append(
            Problem(
                name="other",
                module=Vector(1.0),
                loss=lambda other: other.value.square().sum(),
                optimizer=sgd(),
            )
        )
    engine = Engine(Graph(*problems), device="cpu")
    engine.run(2, show_progress=False)
    twin = network(nn.BatchNorm1d(6))
    optimizer = sgd()(twin.parameters())
    for update in (batches[:3], batches[3:]):
        optimizer.zero_grad()
        for batch in update:
            (loss(twin, batch) / 3).backward()
        optimizer.step()
    found, expected = problems[0].module[1], twin[1]
    assert int(found.num_batches_tracked) == 6
    assert torch.allclose(found.running_mean, expected.running_mean, rtol=1e-12)
    assert torch.allclose(found.running_var, expected.running_var, rtol=1e-12)


def test_statistics_of_the_lower_problem_stay_while_the_upper_one_is_updated():
    graph = two_levels(network(nn.BatchNorm1d(6)), mlo.cg(steps=2, damping=1.0))
    batches = {name: [rows(4, seed) for seed in range(4)] for name in graph.problems}
    engine = Engine(runnable(graph, {"model": 2, "weights": 3}, batches), device="cpu")
    engine.update("model")
    before = {n: b.clone() for n, b in graph.problem("model").module.named_buffers()}
    engine.update("weights")
    after = dict(graph.problem("model").module.named_buffers())
    assert all(torch.equal(after[n], b) for n, b in before.items())
