"""The simulated quadratic as an `mlo` program: two problems, differentiated in several ways."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mlo.bench.quadratic_data import Blocks, Instance, Objective, blocks
from mlo.bench.quadratic_peers import Steps
from mlo.engine import Engine
from mlo.graph import Graph
from mlo.problem import Problem
from mlo.response.protocol import Response


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Learning rates ``c·(1 + k/slowing)^-e`` of SGD, with k the rounds so far.

    Attributes:
        inner: c of the inner variable.
        outer: c of the outer variable.
        steps: Updates of the inner variable a round.
        slowing: Rounds after which rates fall.
        inner_exponent: e of the inner variable.
        outer_exponent: e of the outer variable.
        inner_momentum: Momentum of the inner variable.
        outer_momentum: Momentum of the outer variable.
    """

    inner: float
    outer: float
    steps: int = 1
    slowing: float = 100.0
    inner_exponent: float = 0.5
    outer_exponent: float = 1.0
    inner_momentum: float = 0.0
    outer_momentum: float = 0.0


class Variable(nn.Module):
    """A vector that is optimised.

    >>> Variable(Tensor([0.5])).value.tolist()
    [0.5]
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(start.clone())


def program(instance: Instance, response: Response, pace: Pace, *, seed: int) -> Graph:
    """Return the two problems; their batches are index tensors.

    >>> from mlo.bench.quadratic_data import SMALL, draw
    >>> from mlo.response.implicit import cg
    >>> print(program(draw(SMALL, seed=0), cg(steps=2), Pace(inner=0.1, outer=0.1), seed=0))
    Graph(inner, outer)
    """
    z, x = instance.start
    size = instance.size
    return Graph(
        Problem(
            name="inner",
            module=Variable(z),
            loss=_loss(instance.lower),
            batches=_batches(size.inner_samples, 2 * seed),
            steps=pace.steps,
            optimizer=lambda p: SGD(p, lr=pace.inner, momentum=pace.inner_momentum),
            scheduler=_falling(pace.slowing * pace.steps, pace.inner_exponent),
            response=response,
        ),
        Problem(
            name="outer",
            module=Variable(x),
            loss=_loss(instance.upper),
            batches=_batches(size.outer_samples, 2 * seed + 1),
            optimizer=lambda p: SGD(p, lr=pace.outer, momentum=pace.outer_momentum),
            scheduler=_falling(pace.slowing, pace.outer_exponent),
        ),
    )


def calls_of_round(response: Response, pace: Pace) -> int:
    """Return the oracle calls of a round: inner gradients, the outer one, and the response's.

    >>> from mlo.response.one_step import finite_difference
    >>> calls_of_round(finite_difference(), Pace(inner=0.1, outer=0.1, steps=2))
    5
    """
    assert response.evaluations is not None
    return pace.steps + 1 + response.evaluations


def trained(instance: Instance, response: Response, pace: Pace, *, seed: int, calls: int) -> Steps:
    """Run the program on the engine for at most `calls` oracle calls; yield as `Peer.run` does."""
    graph = program(instance, response, pace, seed=seed)
    each = calls_of_round(response, pace)
    x = graph.problem("outer").module.get_parameter("value")
    for made in Engine(graph, device="cpu").rounds(calls // each):
        yield each * made.number, x.detach().clone()


def _loss(objective: Objective) -> Callable[[Variable, Variable, Tensor], Tensor]:
    def loss(inner: Variable, outer: Variable, batch: Tensor) -> Tensor:
        return objective.loss(inner.value, outer.value, batch)

    return loss


def _batches(samples: int, seed: int) -> Iterable[Tensor]:
    made: Blocks = blocks(samples, seed=seed)
    return made


def _falling(slowing: float, exponent: float) -> Callable[[Optimizer], LambdaLR]:
    return lambda optimizer: LambdaLR(optimizer, lambda k: (1 + k / slowing) ** -exponent)
