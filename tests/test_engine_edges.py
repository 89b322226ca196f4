"""What users do to an engine that is not in the examples."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from mlo import BatchError, Engine, Graph, MloError, Problem, ProblemError, hypergradient
from tests.programs import Vector


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def one(module, loss, **options):
    return Graph(Problem(name="x", module=module, loss=loss, optimizer=sgd, **options))


class Empty(IterableDataset):
    """A data set without a length and without data."""

    def __iter__(self):
        return iter([])


@pytest.mark.parametrize("batches", [(b for b in ()), DataLoader(Empty())])
def test_an_empty_loader_without_a_length_is_refused_at_construction(batches):
    graph = one(Vector(1.0), lambda x, batch: (x.value * batch).sum(), batches=batches)
    with pytest.raises(BatchError, match="problem 'x': batches is empty"):
        Engine(graph, "cpu")


def test_the_batch_that_is_looked_at_is_not_lost():
    seen = []

    def loss(x, batch):
        seen.append(batch)
        return (x.value * batch).sum()

    Engine(one(Vector(1.0), loss, batches=iter([1, 2, 3])), "cpu").run(3)
    assert seen == [1, 2, 3]


def test_a_batch_with_a_default_is_optional():
    def loss(x, batch=None):
        return (x.value * (2.0 if batch is None else batch)).sum()

    assert hypergradient(one(Vector(1.0), loss), "x").gradient["value"].item() == 2.0
    assert hypergradient(one(Vector(1.0), loss), "x", {"x": 5.0}).gradient["value"].item() == 5.0
    for batches, expected in ((None, 0.8), ([5.0], 0.5)):
        x = Vector(1.0)
        Engine(one(x, loss, batches=batches), "cpu").run(1)
        assert x.value.item() == pytest.approx(expected)


def test_a_parameter_may_be_frozen_between_two_runs():
    model = nn.Linear(1, 1)
    engine = Engine(one(model, lambda x: x.weight.sum() + x.bias.sum()), "cpu")
    engine.run(1)
    model.bias.requires_grad_(False)
    before = model.bias.item()
    weight = model.weight.item()
    engine.run(1)
    assert model.bias.item() == before
    assert model.weight.item() != weight


def test_an_exception_in_a_loss_leaves_statistics_and_the_count_of_rounds():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    broken = []

    def loss(x):
        value = x(torch.randn(4, 1)).square().mean()
        if broken:
            raise RuntimeError("broken")
        return value

    engine = Engine(one(model, loss), "cpu")
    engine.run(1)
    before = {n: b.clone() for n, b in model.named_buffers()}
    broken.append(True)
    with pytest.raises(RuntimeError, match="broken"):
        engine.run(1)
    assert engine.round == 1
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


def test_optimizer_and_scheduler_objects_are_kept():
    x = Vector(1.0)
    optimizer = torch.optim.SGD(x.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    graph = Graph(
        Problem(
            name="x",
            module=x,
            loss=lambda x: x.value.sum(),
            optimizer=optimizer,
            scheduler=scheduler,
        )
    )
    engine = Engine(graph, "cpu")
    engine.run(2)
    assert engine.optimizers["x"] is optimizer
    assert engine.schedulers["x"] is scheduler
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_a_scheduler_function_that_returns_none_is_refused():
    graph = one(Vector(1.0), lambda x: x.value.sum(), scheduler=lambda optimizer: None)
    with pytest.raises(ProblemError, match=r"scheduler must give a .*, got NoneType"):
        Engine(graph, "cpu")


def test_training_inside_no_grad():
    x = Vector(1.0)
    with torch.no_grad():
        Engine(one(x, lambda x: x.value.sum()), "cpu").run(1)
    assert x.value.item() == pytest.approx(0.9)


def test_what_is_no_graph_or_device_is_named():
    with pytest.raises(MloError, match=r"an engine runs a mlo.Graph, got list"):
        Engine([], "cpu")
    with pytest.raises(MloError, match="device must be 'auto' or a usable device, got None"):
        Engine(one(Vector(1.0), lambda x: x.value.sum()), None)


def test_a_gradient_that_two_parameters_share_is_written_to_by_neither():
    """Autograd hands out one tensor for both; an optimizer in place would write it twice."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor([1.0, 2.0]))
            self.b = nn.Parameter(torch.tensor([0.5, 0.5]))

    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, foreach=True)

    def loss(pair):
        return (pair.a + pair.b).square().sum()

    pair, plain = Pair(), Pair()
    Engine(Graph(Problem(name="pair", module=pair, loss=loss, optimizer=make)), device="cpu").run(3)
    optimizer = make(plain.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        loss(plain).backward()
        optimizer.step()
    assert torch.equal(pair.a, plain.a)
    assert torch.equal(pair.b, plain.b)


def test_a_parameter_that_was_replaced_is_noticed():
    line = nn.Linear(1, 1)
    engine = Engine(
        Graph(
            Problem(
                name="line",
                module=line,
                loss=lambda line: line.weight.square().sum(),
                optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            )
        ),
        device="cpu",
    )
    engine.run(1)
    line.weight = nn.Parameter(torch.ones(1, 1))
    with pytest.raises(ProblemError, match="'line': parameter 'weight' was replaced by another"):
        engine.run(1)
