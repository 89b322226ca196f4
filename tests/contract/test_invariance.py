"""What must not matter to any solver: names, order, buffers, random numbers; and what stays."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mlo import Graph, Problem, hypergradient
from mlo.testing.quadratic import UPPER, Quadratic
from mlo.testing.smooth import Smooth
from tests.contract.reference import expansion, rate_for
from tests.contract.solvers import DIFFERENTIATING, ENTRIES, Entry, Setting, declared, program_of
from tests.programs import (
    network,
    regression_batches,
    relative_error,
    same_bits,
    snapshot,
    two_levels,
)

every_entry = pytest.mark.parametrize("entry", DIFFERENTIATING, ids=str)
RATE = 0.05


def gradient_of(graph: Graph, target: str = UPPER, batches=None):
    return hypergradient(graph, target, batches).gradient


def renamed(graph: Graph, names: dict[str, str]) -> Graph:
    """Return the graph under other names; losses are called by keyword with what they knew."""
    back = {new: old for old, new in names.items()}

    def translated(loss):
        return lambda **modules: loss(**{back[name]: m for name, m in modules.items()})

    problems = [
        replace(
            p, name=names[n], loss=translated(p.loss), reads=tuple(names[r] for r in graph.reads(n))
        )
        for n, p in graph.problems.items()
    ]
    return Graph(*problems, levels={names[n]: level for n, level in graph.levels.items()})


@pytest.mark.parametrize(
    ("shape", "kind"), [("diamond", Smooth), ("nested, all read by all", Quadratic)]
)
@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_renaming_problems_changes_no_bit(entry, shape, kind):
    program = program_of(shape, kind)
    graph = declared(program, entry, Setting(rate=rate_for(expansion(program))))
    names = dict(zip(graph.problems, ("zeta", "beta", "mu", "alpha"), strict=False))
    expected = gradient_of(graph)
    assert same_bits(gradient_of(renamed(graph, names), names[UPPER]), expected)


@pytest.mark.parametrize(
    ("shape", "kind", "level"),
    [
        ("diamond", Smooth, {"x": 0, "y": 1, "z": 1, UPPER: 2}),
        ("diamond downwards", Smooth, {"x": 0, "y": 1, "z": 1, UPPER: 2}),
        ("both paths", Smooth, {"t": 0, "s": 0, UPPER: 1}),
        ("nested pair", Quadratic, {"c": 0, "d": 0, "b": 1, UPPER: 2}),
    ],
)
@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_the_order_of_problems_of_one_level_does_not_matter(entry, shape, kind, level):
    program = program_of(shape, kind)
    graph = declared(program, entry, Setting(rate=rate_for(expansion(program))))
    problems = list(graph.problems.values())
    found = [
        gradient_of(Graph(*order, levels=level)) for order in (problems, list(reversed(problems)))
    ]
    # Sums are taken in another order, and a difference magnifies what that leaves.
    assert relative_error(*found) < 1e-9
    assert relative_error(found[0], gradient_of(graph)) < 1e-9


# On networks: a model of two linear layers whose examples are weighted by the upper problem.


def learner(entry: Entry, model: nn.Module) -> Graph:
    kind = entry.optimizer
    live = None if kind is None else kind(list(model.parameters()), RATE)
    response = entry.make(Setting(rate=RATE))
    return two_levels(model, response, optimizer=live)


def on_network(entry: Entry, *layers: nn.Module, training: bool = True, seed: int = 4):
    """Return the gradient through a network with these layers in its middle."""
    model = network(*layers).train(training)
    graph = learner(entry, model)
    torch.manual_seed(seed)
    return gradient_of(graph, "weights", regression_batches())


class Statistics(nn.Module):
    """Passes its input on and keeps count of it in a buffer; draws numbers that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6).double())

    def forward(self, inputs):
        self.mean.mul_(0.9).add_(inputs.detach().mean(0), alpha=0.1)
        torch.rand(3), random.random(), np.random.rand()
        return inputs


class Affine(nn.Module):
    """What batch normalisation with fixed statistics is."""

    def __init__(self, mean, variance) -> None:
        super().__init__()
        self.mean, self.deviation = mean, (variance + 1e-5).sqrt()
        self.weight = nn.Parameter(torch.ones(6).double())
        self.bias = nn.Parameter(torch.zeros(6).double())

    def forward(self, inputs):
        return (inputs - self.mean) / self.deviation * self.weight + self.bias


@every_entry
def test_a_buffer_that_moves_and_numbers_that_are_drawn_in_vain_change_no_bit(entry):
    assert same_bits(shifted(on_network(entry, Statistics())), shifted(on_network(entry)))


def shifted(gradient):
    return {str(position): tensor for position, tensor in enumerate(gradient.values())}


@every_entry
def test_dropout_that_drops_nothing_changes_no_bit(entry):
    expected = shifted(on_network(entry, training=False))
    assert same_bits(shifted(on_network(entry, nn.Dropout(0.5), training=False)), expected)


@every_entry
def test_batch_normalisation_with_fixed_statistics_is_an_affine_layer(entry):
    generator = torch.Generator().manual_seed(8)
    mean = torch.randn(6, generator=generator).double()
    variance = torch.rand(6, generator=generator).double() + 0.5
    normalising = nn.BatchNorm1d(6)
    normalising.running_mean.copy_(mean)
    normalising.running_var.copy_(variance)
    found = on_network(entry, normalising, training=False)
    mean, variance = mean.float().double(), variance.float().double()
    expected = on_network(entry, Affine(mean, variance), training=False)
    assert relative_error(found, expected) < 1e-9


@every_entry
def test_the_same_seed_gives_the_same_bits_under_dropout_and_another_one_does_not(entry):
    first, again, other = (on_network(entry, nn.Dropout(0.5), seed=seed) for seed in (4, 4, 5))
    assert same_bits(first, again)
    assert relative_error(other, first) > 1e-3


def words():
    """Return the states of all generators as plain numbers."""
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy["pos"], list(numpy["key"]), torch.get_rng_state().tolist()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@every_entry
def test_weights_buffers_optimizers_and_generators_are_left_as_they_were(entry, training):
    model = network(nn.BatchNorm1d(6), nn.Dropout(0.3), Statistics()).train(training)
    graph = learner(entry, model)
    optimizer = graph.problem("model").optimizer
    moments = [] if optimizer is None else [t for s in optimizer.state.values() for t in s.values()]
    before, kept, generators = snapshot(graph), [t.clone() for t in moments], words()
    gradient_of(graph, "weights", regression_batches())
    assert same_bits(snapshot(graph), before)
    assert all(torch.equal(now, then) for now, then in zip(moments, kept, strict=True))
    assert words() == generators
    assert model.training is training
    assert all(p.grad is None for m in graph.problems.values() for p in m.module.parameters())


@every_entry
def test_a_sparse_embedding_above_has_the_gradient_of_a_dense_one(entry):
    rows = torch.tensor([4, 0, 4, 2])

    def program(*, sparse: bool) -> Graph:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            model, table = nn.Linear(3, 2).double(), nn.Embedding(6, 2, sparse=sparse).double()
            inputs, targets = torch.randn(4, 3).double(), torch.randn(4, 2).double()

        def train(model, table):
            errors = (model(inputs) - targets).square() + 0.1 * model.weight.square().sum()
            return (table(rows).sigmoid() * errors).sum()

        kind = entry.optimizer
        problem = Problem(
            name="model",
            module=model,
            loss=train,
            response=entry.make(Setting(rate=RATE)),
            optimizer=None if kind is None else kind(list(model.parameters()), RATE),
        )

        def valid(model, table):
            return (model(inputs).tanh() - targets).square().sum() + table(rows).pow(3).sum()

        return Graph(problem, Problem(name="table", module=table, loss=valid))

    found, expected = (gradient_of(program(sparse=sparse), "table") for sparse in (True, False))
    found = {name: t.to_dense() for name, t in found.items()}
    assert relative_error(found, expected) < 1e-9
    assert torch.equal(found["weight"][[1, 3, 5]], torch.zeros(3, 2).double())
    assert bool((found["weight"][[0, 2, 4]] != 0).all())


@every_entry
def test_a_nan_in_the_lower_loss_is_reported_and_reaches_the_gradient(entry):
    graph = learner(entry, network())
    problems = [
        replace(
            p, loss=lambda model, weights, batch, f=p.loss: f(model, weights, batch) * torch.nan
        )
        if n == "model"
        else p
        for n, p in graph.problems.items()
    ]
    found = hypergradient(Graph(*problems), "weights", regression_batches())
    assert found.outcomes["model"].failed
    assert not all(torch.isfinite(t).all() for t in found.gradient.values())
