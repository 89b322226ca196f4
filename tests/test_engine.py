"""The loop: who is updated when, by what, and what stays where it is."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

import mlo
from mlo import Engine, Graph, Problem, hypergradient
from mlo.context import context_of
from tests.programs import (
    Vector,
    network,
    regression_batches,
    same_bits,
    snapshot,
    two_levels,
)


def sgd(lr=0.05, **options):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **options)


def runnable(graph, *, steps=None, optimizers=None, batches=None):
    """Give every problem of a graph what running takes."""
    drawn = batches or {n: [b] for n, b in regression_batches().items()}
    problems = [
        replace(
            problem,
            optimizer=(optimizers or {}).get(name, sgd()),
            steps=(steps or {}).get(name, 1),
            batches=drawn[name] if graph.arguments[name].batch else None,
        )
        for name, problem in graph.problems.items()
    ]
    return Graph(*problems, levels=graph.levels)


def log_updates(engine):
    """Record, after every update, who made it and copies of all parameters and buffers."""
    log = [(None, snapshot(engine.graph))]
    for name, optimizer in engine.optimizers.items():
        optimizer.register_step_post_hook(
            lambda *_, name=name: log.append((name, snapshot(engine.graph)))
        )
    return log


def chain(batchnorm=False):
    """Three levels of networks: t is read by s, and c by t."""

    def net(seed):
        return network(*([nn.BatchNorm1d(6)] if batchnorm else []), seed=seed)

    def loss_t(t, c, batch):
        return (t(batch) - c(batch).sigmoid()).square().mean()

    def loss_s(s, t, batch):
        return (s(batch) - t(batch)).square().mean()

    def loss_c(s, t, c, batch):
        return (s(batch) + t(batch) - 1).square().mean() + 0.01 * c(batch).square().mean()

    graph = Graph(
        Problem(name="t", module=net(0), loss=loss_t, response=mlo.neumann(terms=2, rate=0.05)),
        Problem(name="s", module=net(1), loss=loss_s),
        Problem(name="c", module=net(2), loss=loss_c),
    )
    generator = torch.Generator().manual_seed(7)
    batches = {
        n: [torch.randn(8, 3, generator=generator).double() for _ in range(3)] for n in "tsc"
    }
    return runnable(graph, steps={"t": 3, "s": 2}, batches=batches)


def test_updates_come_in_the_order_of_the_schedule():
    engine = Engine(chain(), device="cpu")
    log = log_updates(engine)
    engine.run(2)
    one_round = ["t", "t", "t", "s", "t", "t", "t", "s", "c"]
    assert [name for name, _ in log[1:]] == one_round * 2


def test_an_update_moves_parameters_and_buffers_of_its_own_problem_and_nothing_else():
    engine = Engine(chain(batchnorm=True), device="cpu")
    log = log_updates(engine)
    engine.run(2)
    for (_, before), (name, after) in pairwise(log):
        moved = {key for key in after if not torch.equal(before[key], after[key])}
        # Behind batch normalisation the bias has no gradient, so that it may stay.
        own = {key for key in after if key.startswith(f"{name}.")} - {f"{name}.0.bias"}
        assert own <= moved <= own | {f"{name}.0.bias"}


def test_batchnorm_counts_the_updates_of_its_own_problem():
    graph = chain(batchnorm=True)
    Engine(graph, device="cpu").run(2)
    counts = {n: int(p.module[1].num_batches_tracked) for n, p in graph.problems.items()}
    assert counts == {"t": 12, "s": 4, "c": 2}


def test_running_statistics_of_plain_training_are_those_of_plain_pytorch():
    """A problem that reads only itself is trained exactly as by hand."""
    batches = regression_batches()
    model = network(nn.BatchNorm1d(6))
    twin = copy.deepcopy(model)

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    problem = Problem(
        name="model", module=model, loss=loss, batches=[*batches.values()], optimizer=sgd()
    )
    Engine(Graph(problem), device="cpu").run(5)
    optimizer = sgd()(twin.parameters())
    for step in range(5):
        optimizer.zero_grad()
        loss(twin, list(batches.values())[step % 2]).backward()
        optimizer.step()
    assert same_bits(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize(
    "response",
    [mlo.finite_difference(), mlo.cg(steps=3), mlo.neumann(terms=2)],
    ids=lambda r: r.label,
)
def test_a_round_is_bitwise_the_hypergradient_and_the_optimizer_by_hand(response):
    batches = regression_batches()
    live = two_levels(network(), response)
    optimizers = {"model": sgd(0.1, momentum=0.9), "weights": torch.optim.Adam}
    graph = runnable(live, steps={"model": 3}, optimizers=optimizers)
    by_hand = runnable(two_levels(network(), response), steps={"model": 3}, optimizers=optimizers)
    engine = Engine(graph, device="cpu")
    lower, upper = by_hand.problem("model"), by_hand.problem("weights")
    steps = {
        n: by_hand.problem(n).optimizer(p.module.parameters()) for n, p in by_hand.problems.items()
    }
    for _ in range(2):
        engine.run(1)
        for _ in range(3):
            steps["model"].zero_grad()
            lower.loss(model=lower.module, weights=upper.module, batch=batches["model"]).backward()
            steps["model"].step()
        contexts = {"model": context_of("model", lower.parameters(), steps["model"])}
        found = hypergradient(by_hand, "weights", batches, contexts=contexts)
        for name, parameter in upper.parameters().items():
            parameter.grad = found.gradient[name]
        steps["weights"].step()
        assert same_bits(snapshot(graph), snapshot(by_hand))


def test_the_hypergradient_is_taken_on_the_batch_of_the_last_lower_update():
    seen = []

    def lower(x, above, batch):
        seen.append(batch)
        return (x.value - batch * above.value).square().sum()

    graph = Graph(
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lower,
            batches=[1.0, 2.0, 3.0],
            steps=2,
            optimizer=sgd(),
            response=mlo.identity(),
        ),
        Problem(name="above", module=Vector(1.0), loss=lambda x: x.value.sum(), optimizer=sgd()),
    )
    Engine(graph, device="cpu").run(3)
    assert seen == [1, 2, 2, 3, 1, 1, 2, 3, 3]


def test_the_same_seed_gives_bitwise_the_same_run():
    def run(seed):
        graph = runnable(two_levels(network(nn.Dropout(0.5)), mlo.finite_difference()))
        torch.manual_seed(seed)
        Engine(graph, device="cpu").run(5)
        return snapshot(graph)

    assert same_bits(run(3), run(3))
    assert not same_bits(run(3), run(4))


def test_running_in_two_parts_is_running_once():
    whole, parts = (runnable(two_levels(network(), mlo.cg(steps=2))) for _ in range(2))
    engine = Engine(parts, device="cpu")
    assert engine.run(2).number == 2
    assert engine.run(3).number == 5
    assert engine.round == 5
    Engine(whole, device="cpu").run(5)
    assert same_bits(snapshot(whole), snapshot(parts))


def test_a_round_tells_losses_and_outcomes():
    engine = Engine(chain(), device="cpu")
    numbers = []
    for result in engine.rounds(3):
        numbers.append(result.number)
        assert set(result.losses) == {"t", "s", "c"}
        assert all(loss.dim() == 0 and not loss.requires_grad for loss in result.losses.values())
        assert {n: list(o) for n, o in result.outcomes.items()} == {"c": ["s", "t"]}
    assert numbers == [1, 2, 3]


def test_gradients_are_not_left_on_the_parameters():
    graph = chain()
    Engine(graph, device="cpu").run(1)
    assert all(
        p.grad is None for problem in graph.problems.values() for p in problem.module.parameters()
    )


def test_frozen_and_unused_parameters_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    graph = runnable(two_levels(model, mlo.finite_difference()))
    before = snapshot(graph)
    Engine(graph, device="cpu").run(2)
    after = snapshot(graph)
    still = {k for k in after if torch.equal(before[k], after[k])}
    assert still == {"model.0.weight", "model.unused"}


def test_two_problems_of_one_level_step_in_turn():
    graph = Graph(
        Problem(
            name="a",
            module=Vector(1.0),
            loss=lambda a, u: (a.value - u.value).square().sum(),
            steps=3,
        ),
        Problem(name="b", module=Vector(2.0), loss=lambda b, u: (b.value * u.value).square().sum()),
        Problem(name="u", module=Vector(3.0), loss=lambda a, b: (a.value + b.value).sum()),
        levels={"a": 0, "b": 0, "u": 1},
    )
    engine = Engine(runnable(graph, steps={"a": 3}, batches={}), device="cpu")
    log = log_updates(engine)
    engine.run(1)
    assert [name for name, _ in log[1:]] == ["a", "b", "a", "a", "u"]


def test_batches_are_moved_to_the_device_of_the_engine():
    found = []

    def loss(x, batch):
        found.append(batch["deep"][0]["inputs"])
        return (x.value * found[0]).sum()

    batch = {"deep": ({"inputs": torch.ones(2).double()}, "text")}
    problem = Problem(name="x", module=Vector(1.0), loss=loss, batches=[batch], optimizer=sgd())
    engine = Engine(Graph(problem), device="cpu")
    engine.run(2)
    assert all(torch.equal(t, torch.ones(2).double()) and t.device == engine.device for t in found)


@pytest.mark.parametrize("rounds", [0, -1, 1.5, True, "3"])
def test_an_impossible_number_of_rounds_is_refused(rounds):
    with pytest.raises(mlo.MloError, match=f"rounds must be an integer >= 1, got {rounds!r}"):
        Engine(chain(), device="cpu").run(rounds)


def test_auto_is_the_cpu_where_there_is_no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert Engine(chain(), device="auto").device == torch.device("cpu")
    assert Engine(chain()).device == torch.device("cpu")


def test_every_response_trains_a_three_level_program_of_networks():
    """Classifier weights t, a student s, and label weights c, on real tensor shapes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(128, 8, generator=generator)
    clean = (inputs[:, :4].sum(1) > 0).long()
    wrong = torch.rand(128, generator=generator) < 0.3
    noisy = torch.where(wrong, 1 - clean, clean)
    train = [
        (torch.arange(i, i + 32), inputs[i : i + 32], noisy[i : i + 32]) for i in range(0, 128, 32)
    ]
    held_out = torch.randn(128, 8, generator=generator)
    valid = [(held_out, (held_out[:, :4].sum(1) > 0).long())]

    def loss_t(t, c, batch):
        rows, x, y = batch
        losses = functional.cross_entropy(t(x), y, reduction="none")
        return (c(rows)[:, 0].sigmoid() * losses).mean()

    def loss_s(s, t, batch):
        _, x, _ = batch
        return functional.kl_div(s(x).log_softmax(1), t(x).softmax(1), reduction="batchmean")

    def loss_c(s, batch):
        x, y = batch
        return functional.cross_entropy(s(x), y)

    def classifier(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))

    for response in (mlo.finite_difference(), mlo.cg(steps=2, damping=0.1)):
        table = nn.Embedding(128, 1)
        nn.init.zeros_(table.weight)
        graph = Graph(
            Problem(
                name="t",
                module=classifier(1),
                loss=loss_t,
                batches=train,
                steps=2,
                optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
                response=response,
            ),
            Problem(
                name="s",
                module=classifier(2),
                loss=loss_s,
                batches=train,
                steps=2,
                optimizer=sgd(0.3),
                response=response,
            ),
            Problem(
                name="c",
                module=table,
                loss=loss_c,
                batches=valid,
                optimizer=lambda p: torch.optim.Adam(p, lr=0.1),
            ),
        )
        losses = [float(r.losses["c"]) for r in Engine(graph, device="cpu").rounds(60)]
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
        # Examples whose label is wrong come to count less, though nothing says which they are.
        weights = table.weight.detach()[:, 0].sigmoid()
        assert weights[wrong].mean() < weights[~wrong].mean() - 0.02
