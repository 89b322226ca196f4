"""Small programs and tools that several tests share."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mlo import Graph, Problem, Response
from mlo.testing.quadratic import UPPER, Quadratic, closed_form, declare, random_quadratic
from mlo.tree import Params


class Vector(nn.Module):
    """One parameter, `value`."""

    def __init__(self, *values: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(values, dtype=dtype))


def relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return ``‖found - expected‖ / ‖expected‖`` of the whole vector."""
    assert list(found) == list(expected)
    difference = torch.cat([(found[k] - expected[k]).reshape(-1) for k in expected])
    return float(difference.norm() / flat(expected).norm())


def flat(vector: Mapping[str, Tensor]) -> Tensor:
    """Return the whole vector as one tensor."""
    return torch.cat([t.reshape(-1) for t in vector.values()])


def snapshot(graph: Graph) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers of all problems."""
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name, problem in graph.problems.items()
        for key, tensor in problem.module.state_dict(keep_vars=True).items()
    }


def same_bits(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Return whether both hold the same keys and tensors, bit for bit."""
    return list(left) == list(right) and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


def solved_with(program: Quadratic, response: Response) -> tuple[Graph, Params]:
    """Return the program with one response wherever one is used, and its exact gradient."""
    order = declare(program).sweeps[UPPER].order
    graph = declare(program, dict.fromkeys(order, response))
    return graph, closed_form(program, graph)


def path_sum(
    program: Quadratic, inverses: dict[str, Tensor], values: dict[str, Tensor]
) -> tuple[Tensor, int]:
    """Return ``dF/d upper`` summed path by path, with ``w = inverses[n] v``, and the paths."""
    inputs = {n: values[n].clone().requires_grad_() for n in program.upper.reads}
    partials = dict(
        zip(
            inputs,
            torch.autograd.grad(program.upper.value(inputs), list(inputs.values())),
            strict=True,
        )
    )
    total, paths = partials.pop(UPPER, torch.zeros_like(program.start)), 0
    stack = list(partials.items())
    while stack:
        name, vector = stack.pop()
        for above, coupling in program.lower[name].couplings.items():
            passed_on = -coupling.T @ (inverses[name] @ vector)
            if above == UPPER:
                total, paths = total + passed_on, paths + 1
            else:
                stack.append((above, passed_on))
    return total, paths


def at_solution(program: Quadratic) -> dict[str, Tensor]:
    """Return the flat value of every problem, lower ones at their optimum."""
    return {**program.solution(program.start), UPPER: program.start}


def system(size: int, condition: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return a positive definite matrix and a vector."""
    program = random_quadratic(
        {"x": size, UPPER: 1}, {"x": [], UPPER: ["x"]}, condition=condition, seed=seed
    )
    loss = program.lower["x"]
    return loss.curvature, loss.linear


def counted(graph: Graph) -> tuple[Graph, dict[str, int]]:
    """Return the graph with losses that count their evaluations, and the counts."""
    counts = dict.fromkeys(graph.problems, 0)

    def counting(name: str, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(loss)
        def call(**arguments: Any) -> Tensor:
            counts[name] += 1
            return loss(**arguments)

        return call

    problems = [replace(p, loss=counting(n, p.loss)) for n, p in graph.problems.items()]
    return Graph(*problems, levels=graph.levels), counts


def fully_connected(lower: int) -> dict[str, list[str]]:
    """Return the reads of a program in which every lower problem reads all above it."""
    names = [f"n{position}" for position in range(lower)]
    reads = {name: [*names[position + 1 :], UPPER] for position, name in enumerate(names)}
    return {**reads, UPPER: [*names, UPPER]}


def two_levels(model: nn.Module, response: Response | None, **options: Any) -> Graph:
    """Return a smooth float64 program that learns to weight the examples of a regression.

    Args:
        model: Maps ``(batch, 3)`` to ``(batch, 1)``; it is solved by the lower problem.
        response: Its response.
        **options: More fields of the lower problem.
    """

    def train_loss(model: nn.Module, weights: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        errors = (model(inputs) - targets).square()
        return (weights(inputs) * errors).mean()

    def valid_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return (model(inputs) - targets).square().mean()

    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid()
    weights = nn.Sequential(*layers).double()
    return Graph(
        Problem(name="model", module=model, loss=train_loss, response=response, **options),
        Problem(name="weights", module=weights, loss=valid_loss),
    )


def regression_batches(seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Return a batch for each problem of `two_levels`."""
    generator = torch.Generator().manual_seed(seed)

    def batch() -> tuple[Tensor, Tensor]:
        inputs = torch.randn(16, 3, generator=generator, dtype=torch.float64)
        return inputs, inputs.sum(1, keepdim=True).sin()

    return {"model": batch(), "weights": batch()}


def network(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    """Return a float64 network with `layers` between its two linear ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 6), *layers, nn.Tanh(), nn.Linear(6, 1)).double()
