"""Programs that one process and several ranks train alike."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import mlo
from mlo import Graph, Problem, Response
from mlo.parallel.data_parallel import DataParallel
from mlo.parallel.traffic import Traffic
from tests.programs import Vector

ROUNDS = 4
Batch = tuple[Tensor, Tensor]
Routed = tuple[Tensor, Tensor, Tensor]


class Trained(NamedTuple):
    """What a few rounds have made of a program.

    Attributes:
        state: Parameters and buffers of all problems.
        losses: Of each problem in each round.
        round: What one rank took part in during the last round.
    """

    state: dict[str, Tensor]
    losses: list[dict[str, Tensor]]
    round: Traffic | None


def trained(graph: Graph, ranks: DataParallel | None = None, rounds: int = ROUNDS) -> Trained:
    """Run a few rounds from the same random state."""
    torch.manual_seed(0)
    engine = mlo.Engine(graph, device="cpu", ranks=ranks)
    losses, readings = [], []
    for done in engine.rounds(rounds):
        losses.append(done.losses)
        if ranks is not None:
            readings.append(ranks.traffic)
    last = readings[-1].since(readings[-2]) if readings else None
    state = {
        f"{name}.{key}": tensor.detach().clone()
        for name, problem in graph.problems.items()
        for key, tensor in problem.module.state_dict().items()
    }
    return Trained(state=state, losses=losses, round=last)


def largest_error(found: Trained, expected: Trained) -> float:
    """Return the largest relative error of a tensor or loss."""
    assert found.state.keys() == expected.state.keys()
    pairs = [(found.state[key], tensor) for key, tensor in expected.state.items()]
    for one, other in zip(found.losses, expected.losses, strict=True):
        assert one.keys() == other.keys()
        pairs += [(one[name], loss) for name, loss in other.items()]
    errors = [float((one - other).norm() / other.norm()) for one, other in pairs if other.any()]
    return max(errors)


def drawn(*shape: int, seed: int) -> Tensor:
    """Return normal numbers in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def batches(*counts: int, seed: int) -> list[Batch]:
    """Return batches of so many rows each, which ranks cannot share evenly."""
    found = []
    for number, count in enumerate(counts):
        inputs = drawn(count, 3, seed=10 * seed + number)
        found.append((inputs, (inputs.sum(1, keepdim=True) > 0).double()))
    return found


def linear(inputs: int, outputs: int, seed: int) -> nn.Module:
    """Return a linear layer in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs).double()


def sgd(rate: float, **options: Any) -> Callable[..., torch.optim.Optimizer]:
    """Return a factory of SGD."""
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, **options)


def bilevel(
    response: Response,
    *,
    is_weighted: bool = False,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    **options: Any,
) -> Graph:
    """Return a logistic regression, strictly convex, whose examples another model weights."""

    def train_loss(model: nn.Module, weights: nn.Module, batch: Batch) -> Any:
        inputs, targets = batch
        scores = model(inputs)
        losses = softplus(scores) - targets * scores
        if is_weighted:
            return mlo.weighted(losses, weights(inputs).sigmoid())
        return (weights(inputs).sigmoid() * losses).mean()

    def valid_loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        scores = model(inputs)
        return (softplus(scores) - targets * scores).mean()

    return Graph(
        Problem(
            name="model",
            module=linear(3, 1, seed=1),
            loss=train_loss,
            batches=batches(10, 11, 7, seed=1),
            steps=2,
            optimizer=optimizer or sgd(0.5, weight_decay=0.1),
            response=response,
            **options,
        ),
        Problem(
            name="weights",
            module=linear(3, 1, seed=2),
            loss=valid_loss,
            batches=batches(9, 5, seed=2),
            optimizer=sgd(1.0, momentum=0.5),
            **options,
        ),
    )


RESPONSES: Mapping[str, Callable[[], Response]] = {
    "finite_difference": mlo.finite_difference,
    "identity": mlo.identity,
    "neumann": lambda: mlo.neumann(terms=5),
    "neumann, auto": lambda: mlo.neumann(terms=5, rate="auto"),
    "cg": lambda: mlo.cg(steps=5),
    "cg by differences": lambda: mlo.cg(steps=3, product="finite_difference"),
    "exact": mlo.exact,
    "nystrom": lambda: mlo.nystrom(rank=2),
    "adaptive": mlo.adaptive,
    "warm_started": mlo.warm_started,
    "unrolled": mlo.unrolled,
    "value_function": lambda: mlo.value_function(strength=10.0),
    "stationarity_penalty": mlo.stationarity_penalty,
}


def pulled(module: nn.Module, target: Tensor, batch: Batch) -> Tensor:
    """Return a strictly convex loss of a vector's distance from a target, noisy by the batch."""
    inputs, _ = batch
    noise = (1 + 0.1 * inputs.tanh()).unsqueeze(-1)
    distance = module.value - target
    return (noise * distance**2).mean() + (1 + distance**2).log().sum() / 4


def chain() -> Graph:
    """Return three levels in which each lower one reads the next."""

    def bottom(low: nn.Module, mid: nn.Module, batch: Batch) -> Tensor:
        return pulled(low, mid.value.sin(), batch)

    def middle(mid: nn.Module, top: nn.Module, batch: Batch) -> Tensor:
        return pulled(mid, top.value * top.value.cos(), batch)

    def upper(low: nn.Module, mid: nn.Module, top: nn.Module, batch: Batch) -> Tensor:
        return pulled(low, 0.3 * mid.value, batch) + 0.1 * top.value.square().sum()

    return Graph(
        Problem(
            name="low",
            module=Vector(0.5, -1.0),
            loss=bottom,
            batches=batches(7, 6, 5, seed=1),
            steps=2,
            optimizer=sgd(0.1),
            response=mlo.cg(steps=4),
        ),
        Problem(
            name="mid",
            module=Vector(0.2, 0.7),
            loss=middle,
            batches=batches(6, 9, seed=2),
            optimizer=sgd(0.1),
            response=mlo.neumann(terms=4),
        ),
        Problem(
            name="top",
            module=Vector(1.0, -0.5),
            loss=upper,
            batches=batches(8, 5, seed=3),
            optimizer=sgd(0.2),
        ),
    )


def nested(response: Callable[[], Response] = mlo.exact) -> Graph:
    """Return a program whose middle objective contains the solution of the lowest problem."""

    def inner(low: nn.Module, mid: nn.Module, top: nn.Module, batch: Batch) -> Tensor:
        return pulled(low, mid.value.sin() + 0.2 * top.value, batch)

    def middle(mid: nn.Module, low: nn.Module, top: nn.Module, batch: Batch) -> Tensor:
        return pulled(mid, top.value.cos(), batch) + (mid.value * low.value).tanh().sum() / 4

    def upper(low: nn.Module, mid: nn.Module, top: nn.Module, batch: Batch) -> Tensor:
        return pulled(mid, 0.3 * low.value, batch) + 0.1 * top.value.square().sum()

    return Graph(
        Problem(
            name="low",
            module=Vector(0.5, -1.0),
            loss=inner,
            batches=batches(7, 6, 5, seed=1),
            optimizer=sgd(0.1),
            response=response(),
        ),
        Problem(
            name="mid",
            module=Vector(0.2, 0.7),
            loss=middle,
            batches=batches(6, 9, seed=2),
            optimizer=sgd(0.1),
            response=response(),
        ),
        Problem(
            name="top",
            module=Vector(1.0, -0.5),
            loss=upper,
            batches=batches(8, 5, seed=3),
            optimizer=sgd(0.2),
        ),
        levels={"low": 0, "mid": 1, "top": 2},
    )


def routed(response: Response, *, is_silent: bool) -> Graph:
    """Return a program whose last two rows go to a second expert, which some ranks never call.

    Args:
        response: Of the experts.
        is_silent: Whether only the second expert is trained: then a rank without rows for it has a
            loss that depends on nothing.
    """

    def train_loss(experts: nn.ModuleList, weights: nn.Module, batch: Routed) -> Tensor:
        inputs, targets, groups = batch
        total = torch.zeros((), dtype=torch.float64)
        for number in (1,) if is_silent else (0, 1):
            mine = groups == number
            if mine.any():
                scores = experts[number](inputs[mine])
                losses = softplus(scores) - targets[mine] * scores
                total = total + (weights(inputs[mine]).sigmoid() * losses).sum()
        return total / len(inputs)

    def valid_loss(experts: nn.ModuleList, batch: Routed) -> Tensor:
        inputs, targets, groups = batch
        scores = torch.where(groups[:, None] == 0, experts[0](inputs), experts[1](inputs))
        return (softplus(scores) - targets * scores).mean()

    def in_groups(given: list[Batch]) -> list[Routed]:
        return [(x, y, (torch.arange(len(x)) >= len(x) - 2).long()) for x, y in given]

    return Graph(
        Problem(
            name="experts",
            module=nn.ModuleList([linear(3, 1, seed=1), linear(3, 1, seed=3)]),
            loss=train_loss,
            batches=in_groups(batches(10, 11, 7, seed=1)),
            steps=2,
            optimizer=sgd(0.5, weight_decay=0.1),
            response=response,
        ),
        Problem(
            name="weights",
            module=linear(3, 1, seed=2),
            loss=valid_loss,
            batches=in_groups(batches(9, 5, seed=2)),
            optimizer=sgd(1.0, momentum=0.5),
        ),
    )


PROGRAMS: Mapping[str, Callable[[], Graph]] = {
    **{f"bilevel, {name}": lambda make=make: bilevel(make()) for name, make in RESPONSES.items()},
    "weighted, identity": lambda: bilevel(mlo.identity(), is_weighted=True),
    "weighted, cg": lambda: bilevel(mlo.cg(steps=5), is_weighted=True),
    "weighted, by differences": lambda: bilevel(mlo.finite_difference(), is_weighted=True),
    "adaptive, Adam": lambda: bilevel(
        mlo.adaptive(), optimizer=lambda p: torch.optim.Adam(p, lr=0.1)
    ),
    "micro-batches, cg": lambda: bilevel(mlo.cg(steps=5), accumulate=2),
    "micro-batches, weighted": lambda: bilevel(
        mlo.finite_difference(), is_weighted=True, accumulate=3
    ),
    "clipped": lambda: bilevel(mlo.cg(steps=5), clipping=mlo.Clipping(direct=0.05, indirect=0.01)),
    "routed, cg": lambda: routed(mlo.cg(steps=5), is_silent=False),
    "routed, identity": lambda: routed(mlo.identity(), is_silent=False),
    "silent ranks, cg": lambda: routed(mlo.cg(steps=5), is_silent=True),
    "silent ranks, by differences": lambda: routed(mlo.finite_difference(), is_silent=True),
    "silent ranks, unrolled": lambda: routed(mlo.unrolled(), is_silent=True),
    "chain": chain,
    "nested, exact": nested,
    "nested, cg": lambda: nested(lambda: mlo.cg(steps=4)),
}
