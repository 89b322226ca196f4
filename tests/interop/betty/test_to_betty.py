"""A graph on Betty's engine makes the updates that it makes on its own."""

from collections import UserDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import mlo
from mlo.interop.betty import to_betty
from tests.interop import betty_programs as programs
from tests.programs import Vector, network, regression_batches, two_levels

# How well a solve goes is no matter here, only that both engines make the same of it.
pytestmark = [pytest.mark.betty, pytest.mark.filterwarnings("ignore::mlo.ResponseWarning")]
Make = Callable[[], mlo.Graph]


def difference(make: Make, rounds: int = 5) -> float:
    """Return the largest relative difference of what both engines have trained."""
    ours, theirs = make(), make()
    start = {name: programs.flat(p.module) for name, p in ours.problems.items()}
    mlo.Engine(ours, device="cpu").run(rounds=rounds)
    to_betty(theirs, rounds=rounds, device="cpu").run()
    errors = []
    for name, problem in ours.problems.items():
        expected = programs.flat(problem.module) - start[name]
        found = programs.flat(theirs.problem(name).module) - start[name]
        errors.append(programs.error(found, expected))
    return max(errors)


def gradients(make: Make, upper: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hypergradient by `mlo` and by Betty at the same point, given upper rate 1."""
    graph = make()
    firsts = {name: next(iter(p.batches)) for name, p in graph.problems.items()}
    ours = mlo.hypergradient(graph, upper, firsts).gradient
    engine = to_betty(graph, rounds=1, device="cpu")
    theirs = programs.moved(graph.problem(upper).module, engine.run)
    return torch.cat([g.reshape(-1) for g in ours.values()]), theirs


def still(make: Make) -> Make:
    """Return `make` with lower problems that do not move and an upper one of rate 1."""

    def still_graph() -> mlo.Graph:
        graph = make()
        top = max(graph.levels.values())
        return mlo.Graph(
            *(
                replace(p, optimizer=programs.sgd(1.0 if graph.levels[n] == top else 0.0))
                for n, p in graph.problems.items()
            )
        )

    return still_graph


one_path = partial(programs.chain_graph, judge=programs.judging_the_student)


@pytest.mark.parametrize("response", [mlo.neumann(1, 0.1), mlo.neumann(6, 0.1), mlo.cg(1)])
@pytest.mark.parametrize("make", [programs.reweighting_graph, one_path], ids=["two", "three"])
def test_hypergradients_are_equal(make: Any, response: mlo.Response) -> None:
    ours, theirs = gradients(still(partial(make, response)), "reweight")
    assert programs.error(theirs, ours) < 1e-9


@pytest.mark.parametrize(
    "solver", [mlo.inverse.neumann(6, 0.1, damping=0.7), mlo.inverse.cg(1, damping=0.7)]
)
def test_the_damping_that_betty_lacks_is_put_in(solver: mlo.InverseProduct) -> None:
    make = partial(programs.reweighting_graph, mlo.implicit(solver))
    ours, theirs = gradients(still(make), "reweight")
    assert programs.error(theirs, ours) < 1e-9


@pytest.mark.parametrize("terms", [1, 6])
def test_both_paths_are_added_up(terms: int) -> None:
    make = partial(programs.chain_graph, mlo.neumann(terms, 0.1))
    ours, theirs = gradients(still(make), "reweight")
    assert programs.error(theirs, ours) < 1e-9


@pytest.mark.parametrize("rate", [None, 0.05, 1.0, 0.2])
@pytest.mark.parametrize("make", [programs.reweighting_graph, one_path], ids=["two", "three"])
def test_the_learning_rate_that_bettys_darts_lacks_is_put_in(make: Any, rate: float) -> None:
    assert difference(partial(make, mlo.finite_difference(rate=rate)), rounds=3) < 1e-9


def test_two_paths_are_perturbed_apart_which_differs_to_second_order() -> None:
    """Betty moves the teacher along each path's vector, `mlo` once along their sum."""
    errors = []
    for radius in (0.1, 0.01):
        make = partial(programs.chain_graph, mlo.finite_difference(radius, rate=0.2))
        ours, theirs = gradients(still(make), "reweight")
        errors.append(programs.error(theirs, ours))
    assert 50 < errors[0] / errors[1] < 200


def test_the_default_response_is_finite_difference() -> None:
    assert difference(programs.reweighting_graph) < 1e-9


def test_the_exact_one_step_product_is_approximated_to_second_order() -> None:
    batches = regression_batches()

    def make(response: mlo.Response) -> mlo.Graph:
        graph = two_levels(network(), response)
        problems = graph.problems.items()
        return mlo.Graph(*(replace(p, batches=[batches[n]]) for n, p in problems))

    ours, theirs = gradients(still(partial(make, mlo.identity(rate=0.1))), "weights")
    assert 1e-9 < programs.error(theirs, ours) < 1e-4
    coarse = partial(make, mlo.identity(rate=0.1, product=mlo.FiniteDifference(radius=0.1)))
    _, far = gradients(still(coarse), "weights")
    assert 50 < programs.error(far, ours) / programs.error(theirs, ours) < 200


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("response", [mlo.neumann(5, 0.1), mlo.neumann(5), mlo.cg(1)])
def test_five_rounds_give_the_same_parameters(response: mlo.Response, steps: int) -> None:
    assert difference(lambda: programs.reweighting_graph(response, steps=steps)) < 1e-9


@pytest.mark.parametrize("steps", [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_five_rounds_of_three_levels_too(steps: tuple[int, int]) -> None:
    assert difference(lambda: programs.chain_graph(mlo.neumann(4, 0.1), steps=steps)) < 1e-9


def groups(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    weights = [p for p in parameters if p.dim() > 1]
    biases = [p for p in parameters if p.dim() == 1]
    return torch.optim.SGD([{"params": weights, "lr": 0.05}, {"params": biases, "lr": 0.0}], lr=0.1)


@pytest.mark.parametrize(
    "optimizer",
    [
        groups,
        programs.sgd(0.05, momentum=0.9),
        programs.sgd(0.05, weight_decay=0.3),
        programs.sgd(0.05, maximize=True),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5),
        lambda p: torch.optim.RMSprop(p, lr=0.01),
    ],
    ids=["groups", "momentum", "decay", "maximize", "Adam", "AdamW", "RMSprop"],
)
def test_the_optimizer_is_the_users_own(optimizer: Any) -> None:
    """Betty drops groups and refuses AdamW; decay and sign are part of what is differentiated."""
    response = mlo.neumann(4, 0.05)
    make = partial(programs.reweighting_graph, response, steps=2, optimizer=optimizer)
    assert difference(make) < 1e-9


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=100),
    ],
    ids=["StepLR", "OneCycleLR"],
)
@pytest.mark.parametrize("response", [mlo.neumann(4, 0.1), mlo.finite_difference()])
def test_the_scheduler_is_the_users_own(scheduler: Any, response: mlo.Response) -> None:
    make = partial(programs.reweighting_graph, response, steps=2, scheduler=scheduler)
    assert difference(make) < 1e-9


@pytest.mark.parametrize("response", [mlo.neumann(4, 0.1), mlo.cg(1), mlo.finite_difference()])
def test_frozen_parameters_stay_out(response: mlo.Response) -> None:
    def make() -> mlo.Graph:
        module = network()
        module[0].requires_grad_(False)
        return programs.reweighting_graph(response, module=module)

    assert difference(make) < 1e-9


@pytest.mark.parametrize("response", [mlo.neumann(2, 0.1), mlo.finite_difference()])
def test_differentiating_leaves_buffers_alone(response: mlo.Response) -> None:
    def make() -> mlo.Graph:
        return programs.reweighting_graph(
            response, module=network(nn.BatchNorm1d(6, dtype=torch.float64))
        )

    graph = make()
    to_betty(graph, rounds=3, device="cpu").run()
    assert int(graph.problem("classifier").module[1].num_batches_tracked) == 3
    assert difference(make) < 1e-9


@pytest.mark.parametrize(
    "batch",
    [torch.ones(4, 3), [torch.ones(2)], {"a": {"b": torch.ones(1)}}, UserDict(a=torch.ones(1))],
)
def test_a_batch_keeps_its_structure(batch: Any) -> None:
    """Betty makes a tuple of rows of a tensor, and a tuple of whatever else it iterates over."""
    seen: list[Any] = []

    def loss(line: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(batch)
        return line.value.square().sum()

    line = Vector(1.0)
    problem = mlo.Problem(
        name="line", module=line, loss=loss, batches=[batch], optimizer=programs.sgd(0.1)
    )
    to_betty(mlo.Graph(problem), rounds=2, device="cpu").run()
    assert [type(b) for b in seen] == [type(batch)] * 2
    assert str(seen[0]) == str(batch)
