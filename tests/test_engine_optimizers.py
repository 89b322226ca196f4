"""Optimizers and schedulers are the user's own objects, and are stepped once per update."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import mlo
from mlo import Engine, Graph, Problem, ProblemError
from tests.programs import Vector


def line(**options):
    """One problem: (w - 2)²."""
    module = options.pop("module", None) or Vector(0.0, 1.0)
    fields = {
        "name": "line",
        "module": module,
        "loss": lambda line: (line.value - 2).square().sum(),
        "optimizer": lambda p: torch.optim.SGD(p, lr=1.0),
    }
    return Problem(**{**fields, **options})


def pair(lower):
    """The problem `line` below another one."""
    above = Problem(
        name="above",
        module=Vector(1.0),
        loss=lambda above: above.value.square().sum(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )
    return Graph(lower, above)


def test_an_optimizer_that_is_given_is_the_one_that_is_used():
    module = Vector(0.0, 1.0)
    live = torch.optim.SGD(module.parameters(), lr=0.25, momentum=0.5)
    engine = Engine(Graph(line(module=module, optimizer=live)), device="cpu")
    assert engine.optimizers["line"] is live
    engine.run(1)
    assert "momentum_buffer" in live.state[module.value]


def test_the_state_an_optimizer_brings_along_is_kept():
    module = Vector(0.0, 1.0)
    live = torch.optim.SGD(module.parameters(), lr=0.25, momentum=0.5)
    module.value.grad = torch.tensor([8.0, 8.0]).double()
    live.step()
    module.value.data.copy_(torch.tensor([2.0, 2.0]))
    Engine(Graph(line(module=module, optimizer=live)), device="cpu").run(1)
    # The gradient at 2 is zero: what moves the weights is the momentum from before.
    assert torch.equal(module.value.detach(), torch.tensor([1.0, 1.0]).double())


def test_the_factory_of_an_optimizer_gets_the_trained_parameters_once():
    asked = []
    module = nn.Linear(2, 1)
    module.bias.requires_grad_(False)

    def factory(parameters):
        asked.append(parameters)
        return torch.optim.SGD(parameters, lr=0.1)

    problem = Problem(
        name="line", module=module, loss=lambda line: line.weight.sum(), optimizer=factory
    )
    Engine(Graph(problem), device="cpu").run(3)
    assert len(asked) == 1
    assert len(asked[0]) == 1
    assert asked[0][0] is module.weight


def test_each_group_of_parameters_keeps_its_options():
    module = nn.Linear(2, 1)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    groups = [
        {"params": [module.weight], "lr": 0.5, "weight_decay": 0.1},
        {"params": [module.bias], "lr": 0.0},
    ]
    live = torch.optim.SGD(groups)
    problem = Problem(
        name="line",
        module=module,
        loss=lambda line: line.weight.sum() + line.bias.sum(),
        optimizer=live,
    )
    Engine(Graph(problem), device="cpu").run(1)
    assert torch.equal(module.bias, before["bias"])
    expected = before["weight"] - 0.5 * (1 + 0.1 * before["weight"])
    assert torch.allclose(module.weight, expected)
    assert [group["lr"] for group in live.param_groups] == [0.5, 0.0]


def test_the_response_follows_the_learning_rate_of_the_live_optimizer():
    def gradient_at(scheduler, rounds):
        above = Vector(0.0)
        graph = Graph(
            Problem(
                name="x",
                module=Vector(1.0),
                loss=lambda x, above: (
                    (x.value - above.value).square().sum() * 0.0 + (x.value * above.value).sum()
                ),
                optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
                scheduler=scheduler,
                response=mlo.identity(),
            ),
            Problem(
                name="above",
                module=above,
                loss=lambda x: x.value.sum(),
                optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
            ),
        )
        Engine(graph, device="cpu").run(rounds)
        return above.value.item()

    # One step of the upper problem moves it by the learning rate of the lower one.
    assert gradient_at(None, 1) == 0.5
    assert gradient_at(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.5), 1) == 0.25
    assert gradient_at(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.5), 2) == 0.25 + 0.125


SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, step_size=4, gamma=0.1),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=10),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.1, max_lr=1.0, step_size_up=3),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.ConstantLR(o, factor=0.1), lr_scheduler.ExponentialLR(o, gamma=0.5)],
        milestones=[3],
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, factor=0.1), lr_scheduler.ExponentialLR(o, gamma=0.9)]
    ),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=10),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_step_once_per_update_as_by_hand(make):
    engine = Engine(pair(line(scheduler=make, steps=3)), device="cpu")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    for _ in range(3):
        engine.run(1)
        for _ in range(3):
            optimizer.step()
            scheduler.step()
        rates = [o.param_groups[0]["lr"] for o in (engine.optimizers["line"], optimizer)]
        assert rates[0] == rates[1]


def test_a_scheduler_that_is_made_is_the_one_that_is_used():
    made = []

    def factory(optimizer):
        made.append(lr_scheduler.StepLR(optimizer, step_size=1))
        return made[0]

    engine = Engine(pair(line(scheduler=factory)), device="cpu")
    assert engine.schedulers == {"line": made[0]}
    assert made[0].optimizer is engine.optimizers["line"]


def test_reduce_on_plateau_sees_the_loss():
    seen = []

    class Plateau(lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            seen.append(metrics)
            super().step(metrics)

    # The weights are at the optimum, so that the loss stays and the rate falls.
    problem = line(
        module=Vector(2.0, 2.0), scheduler=lambda o: Plateau(o, patience=1, factor=0.5), steps=2
    )
    engine = Engine(pair(problem), device="cpu")
    engine.run(3)
    assert seen == [0.0] * 6
    assert engine.optimizers["line"].param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"optimizer": None},
            "problem 'line': running takes an optimizer, got None; give optimizer=lambda p: torch",
        ),
        (
            {"optimizer": lambda p: "sgd"},
            "optimizer must give a torch.optim.Optimizer whose step takes no closure, got str",
        ),
        (
            {"optimizer": lambda p: torch.optim.LBFGS(p)},
            "whose step takes no closure, got LBFGS",
        ),
        (
            {"optimizer": lambda p: torch.optim.SGD([*p, torch.nn.Parameter(torch.zeros(1))])},
            "problem 'line': its optimizer holds a parameter that its module does not have; each",
        ),
        (
            {"loss": lambda line, batch: line.value.sum()},
            "problem 'line': its loss takes a batch, but batches is None",
        ),
        ({"batches": [1]}, "problem 'line': batches are given, but its loss takes no 'batch'"),
        (
            {"steps": 2},
            "problem 'line': it is outermost, and a round is one update of it, so steps must be 1",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_moves(options, message):
    with pytest.raises(ProblemError, match=message):
        Engine(Graph(line(**options)), device="cpu")


def test_an_optimizer_may_hold_some_of_the_parameters_only():
    module = nn.Linear(2, 1)
    before = module.bias.detach().clone()
    problem = Problem(
        name="line",
        module=module,
        loss=lambda line: line.weight.sum() + line.bias.sum(),
        optimizer=torch.optim.SGD([module.weight], lr=0.1),
    )
    Engine(Graph(problem), device="cpu").run(1)
    assert torch.equal(module.bias, before)
