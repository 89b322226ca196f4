"""What is lost if each rank answers alone and only the hypergradients are averaged.

A linear model is fitted to rows that ranks share, with learned shifts of its targets above it:

    lower  θ*(a) = argmin_θ  mean_i ½ (f(xᵢᵀθ + zᵢᵀa) - yᵢ)² + ridge/2 ‖θ‖²
    upper  min_a  mean_j ½ (f(xⱼᵀθ*) - yⱼ)²

With f the identity this is a quadratic. Both batches are the same, however many ranks share them,
and the reference is one rank's answer to all of them.
"""

import functools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import SGD

from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.programs import seeded
from mlo.graph import Graph
from mlo.hypergradient import hypergradient
from mlo.parallel.rows import sliced
from mlo.problem import Problem
from mlo.response.implicit import cg, exact, neumann
from mlo.response.one_step import finite_difference, identity
from mlo.response.protocol import Response

LOWER, UPPER = "lower", "upper"
RIDGE: Final = 0.01
RATE: Final = 0.5
WIDTH: Final = 20
"""Parameters of the lower problem."""
SHIFTS: Final = 5
"""Parameters of the upper one."""
ROWS: Final = 512
"""Of each batch."""

Batch = tuple[Tensor, Tensor, Tensor]
"""`(rows, WIDTH)` inputs, `(rows, SHIFTS)` what shifts targets, `(rows,)` targets."""


class Vector(nn.Module):
    """A vector of parameters.

    >>> Vector(torch.ones(2)).value.shape
    torch.Size([2])
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """One draw of the data and a point.

    Attributes:
        train: Batch of the lower problem.
        valid: Batch of the upper problem.
        solution: The lower problem's solution to all rows, where it is linear.
        is_linear: Whether f is the identity; otherwise it is tanh.
    """

    train: Batch
    valid: Batch
    solution: Tensor
    is_linear: bool


def setting(seed: int, *, is_linear: bool = True, is_clear: bool = True) -> Setting:
    """Draw the data, whose inputs have variances from 1 down to 0.01.

    Args:
        seed: Of the draw.
        is_linear: Whether f is the identity; otherwise it is tanh.
        is_clear: Whether there is something to find: shifts that go with inputs, and a validation
            set with another truth. Otherwise both parts of a hypergradient are zero on average, as
            they nearly are when the upper problem is solved.

    >>> setting(0).solution.shape
    torch.Size([20])
    """
    share = 0.8 if is_clear else 0.0
    with seeded(seed):
        scales = torch.logspace(0, -1, WIDTH, dtype=torch.float64)
        truth, other = torch.randn(2, WIDTH, dtype=torch.float64)

        def batch(weights: Tensor) -> Batch:
            directions = torch.randn(ROWS, WIDTH, dtype=torch.float64)
            noise = torch.randn(ROWS, SHIFTS, dtype=torch.float64)
            x = scales * directions
            z = share * directions[:, :SHIFTS] + (1 - share**2) ** 0.5 * noise
            return x, z, x @ weights + 0.5 * torch.randn(ROWS, dtype=torch.float64)

        train, valid = batch(truth), batch(truth + share * other)
    x, _, y = train
    hessian = x.T @ x / ROWS + RIDGE * torch.eye(WIDTH, dtype=torch.float64)
    solution = torch.linalg.solve(hessian, x.T @ y / ROWS)
    return Setting(train=train, valid=valid, solution=solution, is_linear=is_linear)


def program(given: Setting, response: Response) -> Graph:
    """Return the bilevel program at the setting's point.

    >>> program(setting(0), cg(steps=3))
    Graph(lower, upper)
    """
    link: Callable[[Tensor], Tensor] = (lambda t: t) if given.is_linear else torch.tanh

    def lower_loss(lower: Vector, upper: Vector, batch: Batch) -> Tensor:
        x, z, y = batch
        error = link(x @ lower.value + z @ upper.value) - y
        return error.square().mean() / 2 + RIDGE / 2 * lower.value.square().sum()

    def upper_loss(lower: Vector, batch: Batch) -> Tensor:
        x, _, y = batch
        return (link(x @ lower.value) - y).square().mean() / 2

    shifts = torch.zeros(SHIFTS, dtype=torch.float64)
    return Graph(
        Problem(
            name=LOWER,
            module=Vector(given.solution.clone()),
            loss=lower_loss,
            optimizer=lambda p: SGD(p, lr=RATE),
            response=response,
        ),
        Problem(name=UPPER, module=Vector(shifts), loss=upper_loss),
    )


def answered(graph: Graph, train: Batch, valid: Batch) -> Tensor:
    """Return the hypergradient on these rows, shape ``(SHIFTS,)``."""
    return hypergradient(graph, UPPER, {LOWER: train, UPPER: valid}).gradient["value"]


def each_alone(graph: Graph, given: Setting, ranks: int) -> Tensor:
    """``mean_r h(train_r, valid_r)``: every rank's own hypergradient, then their mean."""
    return _mean(graph, given, ranks, slices_train=True)


def lower_replicated(graph: Graph, given: Setting, ranks: int) -> Tensor:
    """``mean_r h(train, valid_r)``: ranks hold all of the lower batch, and slices of the upper."""
    return _mean(graph, given, ranks, slices_train=False)


def _mean(graph: Graph, given: Setting, ranks: int, *, slices_train: bool) -> Tensor:
    found = []
    for rank in range(ranks):
        train = sliced(given.train, rank, ranks)[0] if slices_train else given.train
        valid, _ = sliced(given.valid, rank, ranks)
        found.append(answered(graph, train, valid))
    return torch.stack(found).mean(0)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is measured for each number of ranks.

    Attributes:
        name: How tables call it.
        make: Returns the response.
        is_linear: Whether the program is the quadratic.
        is_clear: See `setting`.
    """

    name: str
    make: Callable[[], Response]
    is_linear: bool = True
    is_clear: bool = True


LINES: Final = (
    Line(name="identity()", make=identity),
    Line(name="neumann(terms=20)", make=functools.partial(neumann, terms=20)),
    Line(name="cg(steps=5)", make=functools.partial(cg, steps=5)),
    Line(name="exact()", make=exact),
    Line(
        name="finite_difference(radius=0.1), tanh",
        make=functools.partial(finite_difference, radius=0.1),
        is_linear=False,
    ),
    Line(name="exact(), nothing to find", make=exact, is_clear=False),
)

WAYS: Final[Mapping[str, Callable[[Graph, Setting, int], Tensor]]] = {
    "each rank alone": each_alone,
    "lower batch on every rank": lower_replicated,
}
"""What is done with one reduction, by the name that tables give it."""


def run(settings: Settings) -> Result:
    """Measure the error of both ways with one reduction, for every response."""
    counts = (2, 8) if settings.quick else (2, 8, 64)
    draws = 2 if settings.quick else 10
    rows: list[Row] = []
    for line in LINES:
        given = [
            setting(settings.seed + draw, is_linear=line.is_linear, is_clear=line.is_clear)
            for draw in range(draws)
        ]
        graphs = [program(each, line.make()) for each in given]
        wanted = [
            answered(graph, each.train, each.valid)
            for graph, each in zip(graphs, given, strict=True)
        ]
        for way, average in WAYS.items():
            for ranks in counts:
                found = [average(g, each, ranks) for g, each in zip(graphs, given, strict=True)]
                rows.append(_row(line.name, way, ranks, found, wanted))
    return Result(
        title=f"Error of one reduction: {ROWS} rows of each batch shared by R ranks",
        rows=rows,
        notes=NOTES,
    )


def _row(name: str, way: str, ranks: int, found: list[Tensor], wanted: list[Tensor]) -> Row:
    pairs = list(zip(found, wanted, strict=True))
    errors = [float((one - other).norm() / other.norm()) for one, other in pairs]
    cosines = [float(one @ other / (one.norm() * other.norm())) for one, other in pairs]
    return {
        "response": name,
        "way": way,
        "ranks": ranks,
        "rows of a rank": ROWS // ranks,
        "relative error": statistics.mean(errors),
        "standard error": statistics.stdev(errors) / len(errors) ** 0.5,
        "cosine": statistics.mean(cosines),
    }


NOTES: Final = (
    "Relative errors are means over draws of the data. The reference is the hypergradient of the "
    "whole batches, which is what ranks find that reduce within the response.",
    f"{WIDTH} parameters below, {SHIFTS} above, float64. The lower problem stands at the solution "
    "to all of its rows. On a quadratic a finite difference is exact, hence tanh.",
    "Nothing to find: the hypergradient is what is left of noise, as near the end of a training.",
)

CASE = Case(
    name="communication_bias",
    summary="error of averaging the hypergradients that ranks find alone",
    run=run,
)
