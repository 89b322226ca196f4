"""How often ranks reduce, and how much, in one round with each response.

Formulas stand beside counts: each response answers once in this process, for a problem whose
parameters pass through a function whose derivatives say when a reduction would have been made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import SGD

from mlo.bench.case import Case, Cell, Result, Row, Settings
from mlo.bench.communication_cost import sharded_bytes
from mlo.bench.communication_measured import (
    GROUPS,
    LOWER,
    RANKS,
    ROUNDS,
    ROWS,
    UPPER,
    bilevel,
    measured,
    three_levels,
)
from mlo.bench.communication_models import MODELS, Model
from mlo.bench.communication_traffic import Rows, Trained, traffic_of, trained_in
from mlo.bench.programs import seeded
from mlo.context import context_of
from mlo.graph import Graph
from mlo.inner import Upstream, inner_of
from mlo.parallel.traffic import Traffic, Volume
from mlo.response.adaptive import adaptive
from mlo.response.implicit import cg, exact, neumann, nystrom, warm_started
from mlo.response.one_step import finite_difference, identity
from mlo.response.protocol import Response
from mlo.response.stationarity import stationarity_penalty
from mlo.response.unrolled import unrolled
from mlo.response.value_function import value_function
from mlo.tree import Params

PARAMETERS: Final = 24
"""Of the problem that is counted; more than the steps of any solve, so that none leaves early."""


@dataclass(frozen=True, kw_only=True)
class Reductions:
    """``steps · K + parameters · n + constant``, the number of reductions of one answer.

    Each gradient in the solved problem's own parameters is one; gradients in what it reads alone
    are none, as the sweep takes their mean later, once for all.

    Attributes:
        steps: For each of K terms, steps or columns.
        parameters: For each of n parameters.
        constant: Besides.
        single: Instead of all, where K is 1; None if that is no exception.
    """

    steps: int = 0
    parameters: int = 0
    constant: int = 0
    single: int | None = None

    def __call__(self, steps: int, parameters: int = 0) -> int:
        """Return the number.

        >>> Reductions(steps=2, constant=-1, single=0)(10), Reductions(steps=2, single=0)(1)
        (19, 0)
        """
        if steps == 1 and self.single is not None:
            return self.single
        return self.steps * steps + self.parameters * parameters + self.constant


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response and how often ranks reduce while it answers once.

    Attributes:
        make: Returns the response with K terms, steps or columns.
        reductions: How often, from its second call on.
    """

    make: Callable[[int], Response]
    reductions: Reductions


ANSWERS: Final[Mapping[str, Answer]] = {
    "finite_difference()": Answer(make=lambda _: finite_difference(), reductions=Reductions()),
    "identity()": Answer(make=lambda _: identity(), reductions=Reductions(constant=1)),
    "adaptive()": Answer(make=lambda _: adaptive(), reductions=Reductions(constant=1)),
    "neumann(terms=K)": Answer(make=lambda k: neumann(terms=k), reductions=Reductions(steps=1)),
    'neumann(terms=K, rate="auto")': Answer(
        make=lambda k: neumann(terms=k, rate="auto"), reductions=Reductions(steps=1, constant=2)
    ),
    "cg(steps=K)": Answer(
        make=lambda k: cg(steps=k, tolerance=0.0), reductions=Reductions(steps=1, constant=1)
    ),
    'cg(steps=K, product="finite_difference")': Answer(
        make=lambda k: cg(steps=k, tolerance=0.0, product="finite_difference"),
        reductions=Reductions(steps=2),
    ),
    "nystrom(rank=K)": Answer(
        make=lambda k: nystrom(rank=k), reductions=Reductions(steps=1, constant=2)
    ),
    "warm_started(steps=K)": Answer(
        make=lambda k: warm_started(steps=k), reductions=Reductions(steps=1, constant=1)
    ),
    "unrolled(steps=K)": Answer(
        make=lambda k: unrolled(steps=k), reductions=Reductions(steps=2, constant=-1)
    ),
    "value_function(steps=K)": Answer(
        make=lambda k: value_function(steps=k, tolerance=0.0),
        reductions=Reductions(steps=1, single=0),
    ),
    "value_function(steps=K, central=True)": Answer(
        make=lambda k: value_function(steps=k, central=True, tolerance=0.0),
        reductions=Reductions(steps=2, constant=-1, single=0),
    ),
    "stationarity_penalty(steps=K)": Answer(
        make=lambda k: stationarity_penalty(steps=k, tolerance=0.0),
        reductions=Reductions(steps=2),
    ),
    "exact()": Answer(make=lambda _: exact(), reductions=Reductions(parameters=1, constant=1)),
}
"""Responses by their call. The first call of `neumann(rate="auto")` takes 6 more."""


class Counter:
    """Counts the reductions that derivatives of any order would make.

    >>> counter, x = Counter(), torch.ones(2, requires_grad=True)
    >>> y = counter.copied(x).square().sum()
    >>> (g,) = torch.autograd.grad(y, x, create_graph=True)
    >>> counter.reductions
    1
    >>> torch.autograd.grad(g.sum(), x)[0], counter.reductions
    (tensor([2., 2.]), 2)
    """

    def __init__(self) -> None:
        self.reductions = 0

    def copied(self, tensor: Tensor) -> Tensor:
        """Return the tensor as a rank's loss would read it."""
        copy: Tensor = _Copy.apply(self, tensor)
        return copy


class _Copy(torch.autograd.Function):
    """The identity, whose gradient all ranks would take the mean of."""

    @staticmethod
    def forward(ctx: Any, counter: Counter, tensor: Tensor) -> Tensor:
        ctx.counter = counter
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, _Mean.apply(ctx.counter, *gradients)


class _Mean(torch.autograd.Function):
    """A reduction, which among one rank is the identity."""

    @staticmethod
    def forward(ctx: Any, counter: Counter, tensor: Tensor) -> Tensor:
        ctx.counter = counter
        counter.reductions += 1
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, _Copy.apply(ctx.counter, *gradients)


def counted(response: Response, *, calls: int = 2) -> int:
    """Return how often ranks would reduce in the last of some calls of a response.

    >>> counted(cg(steps=3, tolerance=0.0))
    4
    """
    counter = Counter()
    scale = torch.linspace(0.5, 1.5, PARAMETERS, dtype=torch.float64)

    def loss(solution: Params, upstream: Upstream) -> Tensor:
        point = counter.copied(solution["value"])
        pull = point @ upstream[UPPER]["value"].repeat(PARAMETERS // 2).tanh()
        return (scale * point.square()).sum() / 2 + (point.sin().sum() / 8) ** 2 - pull

    with seeded(0):
        point, above, vector = (
            torch.randn(size, dtype=torch.float64) / 4 for size in (PARAMETERS, 2, PARAMETERS)
        )
    parameter = nn.Parameter(point)
    context = context_of(LOWER, {"value": parameter}, SGD([parameter], lr=0.25))
    for _ in range(calls):
        counter.reductions = 0
        upstream = {UPPER: {"value": above}}
        response(inner_of(loss), {"value": point}, upstream, {"value": vector.clone()}, context)
    return counter.reductions


def program_of(call: str, steps: int) -> Graph:
    """Return the small program that is run on two ranks, with a response of `ANSWERS`.

    >>> program_of("cg(steps=K)", 3).response("lower").label
    'cg(steps=3)'
    """
    return bilevel(ANSWERS[call].make, steps)


def run(settings: Settings) -> Result:
    """Count every response, and what a round of two programs puts in with it."""
    del settings
    programs: dict[str, Callable[[], Graph]] = {
        call: partial(program_of, call, RUN_STEPS) for call in ANSWERS
    }
    ran = measured({**programs, GROUPING: three_levels})
    rows: list[Row] = []
    model = MODELS["ResNet-18"]()
    lower = Trained(sizes=model.sizes, statistics=model.statistics, updates=UPDATES)
    # Meta-Weight-Net with 100 hidden units.
    upper = Trained(sizes=(100, 100, 100, 1), asked=(LOWER,))
    for call, answer in ANSWERS.items():
        reductions = answer.reductions(STEPS, lower.numbers)
        found = traffic_of({LOWER: lower, UPPER: upper}, {LOWER: reductions}).kinds
        rows.append(
            {
                "response": call,
                "K": STEPS,
                "reductions": answer.reductions(STEPS, PARAMETERS),
                "counted": counted(answer.make(STEPS)),
                **_sharded(call, answer),
                **_volumes(found),
                "formula (bytes)": expected(programs[call](), call, RUN_STEPS).total.bytes,
                "two ranks (bytes)": ran[call].total.bytes,
            }
        )
        if call.startswith("exact"):
            # A dense Hessian of so many parameters is not thought of.
            rows[-1] |= dict.fromkeys(_COLUMNS)
    rows.append(_learning_by_grouping(model, ran[GROUPING]))
    return Result(
        title=f"What a rank puts into the reductions of a round, {UPDATES} lower updates in each",
        rows=rows,
        notes=NOTES,
    )


def expected(graph: Graph, call: str, steps: int) -> Traffic:
    """Return what a round of the small program should put in."""
    problems = trained_in(graph)
    reductions = ANSWERS[call].reductions(steps, problems[LOWER].numbers)
    return traffic_of(problems, {LOWER: reductions})


def expected_of_three_levels() -> Traffic:
    """Return what a round of the three levels should put in.

    >>> expected_of_three_levels().kinds["gradients"]
    Volume(count=2, bytes=248)
    """
    problems = trained_in(three_levels())
    rows = Rows(number=-(-ROWS // RANKS), width=GROUPS)
    problems["assignments"] = replace(problems["assignments"], sparse=rows)
    return traffic_of(problems, _SEPARABLE)


def _learning_by_grouping(model: Model, ran: Traffic) -> Row:
    """Return the row of the three levels, each update once, 64 rows of C on a rank."""
    network = Trained(sizes=model.sizes, statistics=model.statistics)
    problems = {
        "gam": network,
        "experts": network,
        "assignments": Trained(
            sizes=(8 * 10**6,), asked=("experts", "gam"), sparse=Rows(number=64, width=8)
        ),
    }
    return {
        "response": GROUPING,
        "reductions": 0,
        **_volumes(traffic_of(problems, _SEPARABLE).kinds),
        "formula (bytes)": expected_of_three_levels().total.bytes,
        "two ranks (bytes)": ran.total.bytes,
    }


def _sharded(call: str, answer: Answer) -> Row:
    """Return what each rank of very many sends in an upper step, per byte of parameters."""
    response = answer.make(STEPS)
    is_first_order = "finite_difference" in response.label or call.startswith("value_function")
    if not is_first_order or response.evaluations is None:
        return {"sent, replicated": None, "sent, sharded": None}
    # The loss of the upper problem and its gradient come before the response.
    gradients = answer.reductions(STEPS) + 1
    sent = sharded_bytes(
        1.0, evaluations=response.evaluations + 1, gradients=gradients, ranks=10**12
    )
    return {"sent, replicated": 2 * gradients, "sent, sharded": round(sent)}


def _volumes(kinds: Mapping[str, Volume]) -> Row:
    parts = [kinds.get(kind, Volume()) for kind in ("gradients", "means", "copies")]
    cells: list[Cell] = []
    for volume in parts:
        cells += [volume.count, volume.bytes / MEGABYTE]
    return dict(zip(_COLUMNS, cells, strict=True))


_SEPARABLE: Final = {"gam": 0, "experts": 0}
"""The mixed derivative of a separable loss needs no gradient of it."""
GROUPING: Final = "identity(), three levels, mlo.weighted"
MEGABYTE: Final = 1e6
STEPS: Final = 10
RUN_STEPS: Final = 3
UPDATES: Final = 5
_COLUMNS: Final = tuple(
    f"{kind}{unit}" for kind in ("gradients", "means", "copies") for unit in ("", " (MB)")
)
NOTES: Final = (
    "Reductions are those of one answer, in the solved problem's own parameters; `counted` is what "
    f"a run of the response made, for {PARAMETERS} parameters, which is n of exact().",
    "Sent: bytes that each of many ranks sends in an upper step for each byte of the lower "
    "parameters, all of them on every rank or sharded; first-order responses only.",
    "Megabytes are those that one rank puts in, for ResNet-18 in float32 below an upper problem of "
    "301 parameters. A ring sends 2 (R - 1) / R times as much.",
    "Means are the cotangent, the hypergradient with its loss, and the running statistics of each "
    "update. Copies are the reductions within responses, gradients those of plain updates.",
    "Three levels: as in Learning by Grouping, both ResNet-18 and updated once; C "
    "has 8 columns, and its gradient is gathered, 64 rows of a rank.",
    f"Two ranks (MEASURED): what one of two gloo processes put into round {ROUNDS} of a small "
    f"program with K = {RUN_STEPS}; beside it the formula for that program.",
)

CASE = Case(
    name="communication",
    summary="reductions of one round by response, by formula and counted",
    run=run,
)
