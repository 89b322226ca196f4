"""Error of a hypergradient against gradient evaluations spent, for every family of responses.

A tanh network of 1,090 parameters learns classes that a noisy teacher gave; the upper problem has
one weight for each of its examples. Everything is float64 and on one batch, so that errors are the
responses' own.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS, SGD, Optimizer

from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.programs import CLASSES, WIDTHS, network, seeded
from mlo.engine import Engine
from mlo.graph import Graph
from mlo.hypergradient import fresh_context, hypergradient
from mlo.problem import Problem
from mlo.response.implicit import cg, exact, neumann, nystrom, warm_started
from mlo.response.one_step import finite_difference, identity
from mlo.response.protocol import Response
from mlo.response.stationarity import stationarity_penalty
from mlo.response.unrolled import unrolled
from mlo.response.value_function import value_function

MODEL, WEIGHTS = "model", "weights"
SOLVED, TRAINED = "solved", "trained a little"
"""Stages: at the minimum of the lower problem, and after a few of its updates."""

RATE: Final = 2.0
DECAY: Final = 1e-2
UPDATES: Final = 20
"""Updates of the lower problem in the second stage."""

Batch = tuple[Tensor, Tensor]


class ExampleWeights(nn.Module):
    """One number for each example; a sigmoid makes a weight of it.

    >>> ExampleWeights(3).value.tolist()
    [0.0, 0.0, 0.0]
    """

    def __init__(self, examples: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(examples, dtype=torch.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class Learner:
    """What the programs are built of.

    Attributes:
        model: The lower module; where it stands is where it is differentiated.
        train: Its batch, ``(examples, inputs)`` and ``(examples,)``.
        valid: The batch of the upper problem.
    """

    model: nn.Module
    train: Batch
    valid: Batch

    @property
    def examples(self) -> int:
        """How many examples have a weight."""
        return len(self.train[1])

    @property
    def parameters(self) -> Tensor:
        """Return the parameters of the model, shape ``(n,)``."""
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])

    def at(self, parameters: Tensor) -> "Learner":
        """Return the same with a copy of the model at other parameters, shape ``(n,)``."""
        model = copy.deepcopy(self.model)
        torch.nn.utils.vector_to_parameters(parameters, model.parameters())
        return Learner(model=model, train=self.train, valid=self.valid)

    def losses(self, parameters: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each example at flat parameters, a pure function."""
        named = dict(self.model.named_parameters())
        pieces = torch.split(parameters, [p.numel() for p in named.values()])
        taken = {n: t.reshape(p.shape) for (n, p), t in zip(named.items(), pieces, strict=True)}
        return cross_entropy(
            functional_call(self.model, taken, batch[0]), batch[1], reduction="none"
        )

    def lower(self, parameters: Tensor, logits: Tensor) -> Tensor:
        """Return the objective of the lower problem, weight decay included."""
        weighted = (logits.sigmoid() * self.losses(parameters, self.train)).mean()
        return weighted + DECAY / 2 * parameters.square().sum()

    def upper(self, parameters: Tensor) -> Tensor:
        """Return the loss of the upper problem."""
        return self.losses(parameters, self.valid).mean()


def learner(examples: int, *, seed: int) -> Learner:
    """Return an untrained network and its data.

    >>> learner(8, seed=0).parameters.shape
    torch.Size([1090])
    """
    widths = WIDTHS["1k"]
    with seeded(seed):
        model = network(widths).double()
        inputs = torch.randn(2 * examples, widths[0], dtype=torch.float64)
        teacher = torch.randn(widths[0], CLASSES, dtype=torch.float64)
        noise = torch.randn(2 * examples, CLASSES, dtype=torch.float64)
    targets = (inputs @ teacher / widths[0] ** 0.5 + 0.5 * noise).argmax(-1)
    return Learner(
        model=model,
        train=(inputs[:examples], targets[:examples]),
        valid=(inputs[examples:], targets[examples:]),
    )


def program(parts: Learner, response: Response, *, steps: int = 1) -> Graph:
    """Return the bilevel program; the weight decay is left to the optimizer.

    >>> print(program(learner(8, seed=0), cg(steps=5)))
    Graph(model, weights)
    """

    def train_loss(model: nn.Module, weights: ExampleWeights, batch: Batch) -> Tensor:
        losses = cross_entropy(model(batch[0]), batch[1], reduction="none")
        return (weights.value.sigmoid() * losses).mean()

    def valid_loss(model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    return Graph(
        Problem(
            name=MODEL,
            module=parts.model,
            loss=train_loss,
            batches=[parts.train],
            steps=steps,
            optimizer=lambda p: SGD(p, lr=RATE, weight_decay=DECAY),
            response=response,
        ),
        Problem(
            name=WEIGHTS,
            module=ExampleWeights(parts.examples),
            loss=valid_loss,
            batches=[parts.valid],
            optimizer=lambda p: SGD(p, lr=0.0),
        ),
    )


def solved(parts: Learner) -> tuple[Learner, float]:
    """Return the learner at a minimum of its objective, and the norm of the gradient there."""
    logits = torch.zeros(parts.examples, dtype=torch.float64)
    slope = grad(parts.lower)
    point = nn.Parameter(parts.parameters)
    # One step is a whole minimisation.
    optimizer: Optimizer = LBFGS(
        [point],
        max_iter=5000,
        max_eval=10000,
        tolerance_grad=1e-9,
        tolerance_change=0.0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> float:
        here = point.detach()
        point.grad = slope(here, logits)
        return float(parts.lower(here, logits))

    optimizer.step(evaluate)
    end = point.detach()
    for _ in range(2):
        end = end - torch.linalg.solve(curvature(parts, end), slope(end, logits))
    return parts.at(end), float(slope(end, logits).norm())


def curvature(parts: Learner, parameters: Tensor) -> Tensor:
    """Return the Hessian of the lower objective, shape ``(n, n)``."""
    logits = torch.zeros(parts.examples, dtype=torch.float64)
    # Reverse over reverse: the forward-mode rules of torch warn of their own compiler.
    found: Tensor = jacrev(grad(parts.lower))(parameters, logits)
    return found


def dense(parts: Learner) -> Tensor:
    """``-∂²g/∂a∂θ H⁻¹ ∂F/∂θ`` where the model stands, by the dense Hessian, shape ``(examples,)``.

    Nothing of `mlo` is involved.
    """
    logits = torch.zeros(parts.examples, dtype=torch.float64)
    point = parts.parameters
    inverted = torch.linalg.solve(curvature(parts, point), grad(parts.upper)(point))
    slopes: Tensor = jacrev(parts.losses)(point, parts.train) @ inverted
    sigmoid = logits.sigmoid()
    return -sigmoid * (1 - sigmoid) * slopes / parts.examples


def retrained(parts: Learner, updates: int, *, step: float = 0.02) -> Tensor:
    """Return the derivative of the upper loss after training again, shape ``(examples,)``.

    Central differences of fourth order, one pair of pairs of trainings for each weight. Nothing of
    `mlo` is involved.
    """
    slope = grad(parts.lower)

    def trained(logits: Tensor) -> Tensor:
        point = parts.parameters
        for _ in range(updates):
            point = point - RATE * slope(point, logits)
        return parts.upper(point)

    units = torch.eye(parts.examples, dtype=torch.float64)
    ends = [vmap(trained, chunk_size=32)(k * step * units) for k in (-2, -1, 1, 2)]
    return (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One family of responses at growing cost.

    Attributes:
        family: Its name.
        responses: Of growing cost.
        calls: If more than 1, the one response is asked so often with the same context, and its
            cost adds up.
    """

    family: str
    responses: tuple[Response, ...]
    calls: int = 1


def lines(*, most: int, rank: int) -> tuple[Line, ...]:
    """Return every family, up to about `most` steps and Hessians of rank `rank`.

    Tolerances are zero, so that no solve stops before the evaluations that its response declares.
    """

    def of(family: str, make: Callable[[int], Response], counts: Iterable[int]) -> Line:
        return Line(family=family, responses=tuple(make(count) for count in counts))

    steps, ranks = _grid(most), _grid(rank)
    return (
        of("identity", lambda _: identity(), (1,)),
        of("finite_difference", lambda _: finite_difference(), (1,)),
        of("neumann", lambda k: neumann(terms=k), steps[1:]),
        of("neumann, rate=auto", lambda k: neumann(terms=k, rate="auto"), steps),
        of("cg", lambda k: cg(steps=k, tolerance=0.0), steps),
        of("cg, damping=0.01", lambda k: cg(steps=k, damping=0.01, tolerance=0.0), steps),
        of("cg, damping=0.1", lambda k: cg(steps=k, damping=0.1, tolerance=0.0), steps),
        of(
            "cg, finite differences",
            lambda k: cg(steps=k, tolerance=0.0, product="finite_difference"),
            steps,
        ),
        of("nystrom, damping=0.1", lambda k: nystrom(rank=k, damping=0.1), ranks),
        of("nystrom, damping=0.01", lambda k: nystrom(rank=k, damping=0.01), ranks),
        Line(family="warm_started", responses=(warm_started(),), calls=most),
        of("unrolled", lambda k: unrolled(steps=k), steps),
        of("value_function", lambda k: value_function(steps=k, tolerance=0.0), steps),
        of(
            "value_function, central",
            lambda k: value_function(steps=k, central=True, tolerance=0.0),
            steps,
        ),
        of("stationarity_penalty", lambda k: stationarity_penalty(steps=k, tolerance=0.0), steps),
        of("exact", lambda _: exact(), (1,)),
    )


def answers(parts: Learner, line: Line) -> Iterator[tuple[Response, int, Tensor]]:
    """Yield response, evaluations spent and hypergradient for each point of a line."""
    batches = {MODEL: parts.train, WEIGHTS: parts.valid}
    size = len(parts.parameters)
    for response in line.responses:
        graph = program(parts, response)
        contexts = {MODEL: fresh_context(graph, MODEL)}
        # exact() makes one product for each parameter and one for the mixed derivative.
        each = response.evaluations or size + 2
        shown = set(_grid(line.calls))
        for call in range(1, line.calls + 1):
            found = hypergradient(graph, WEIGHTS, batches, contexts=contexts)
            if call in shown:
                yield response, call * each, found.gradient["value"]


def replayed(start: Learner, updates: int) -> Iterator[tuple[Response, int, Tensor]]:
    """Yield the same as `answers` for `unrolled`, of updates that an engine made and recorded."""
    counts = [k for k in _grid(updates - 1) if k < updates]
    for response in (unrolled(steps=k) for k in (*counts, updates)):
        parts = start.at(start.parameters)
        engine = Engine(program(parts, response, steps=updates), device="cpu")
        for _ in range(updates):
            engine.update(MODEL)
        assert response.evaluations is not None
        yield response, response.evaluations, engine.update(WEIGHTS).gradient["value"]


def run(settings: Settings) -> Result:
    """Measure every family at both stages."""
    examples, most, rank = (16, 16, 8) if settings.quick else (128, 512, 256)
    start = learner(examples, seed=settings.seed)
    minimum, left = solved(start)
    logits = torch.zeros(examples, dtype=torch.float64)
    point = start.parameters
    for _ in range(UPDATES):
        point = point - RATE * grad(start.lower)(point, logits)
    trained = start.at(point)
    stages = ((SOLVED, minimum, dense(minimum)), (TRAINED, trained, retrained(start, UPDATES)))
    rows: list[Row] = []
    for stage, parts, reference in stages:
        for line in lines(most=most, rank=rank):
            is_replayed = stage == TRAINED and line.family == "unrolled"
            found = replayed(start, UPDATES) if is_replayed else answers(parts, line)
            rows += [_row(stage, line.family, *each, reference) for each in found]
    spectrum = torch.linalg.eigvalsh(curvature(minimum, minimum.parameters))
    return Result(
        title=f"Error of the hypergradient for {examples} weights of examples",
        rows=rows,
        notes=(
            f"Solved: at a minimum (gradient norm {left:.0e}, eigenvalues of the Hessian "
            f"{float(spectrum[0]):.2g} to {float(spectrum[-1]):.2g}), against the dense Hessian.",
            f"Trained a little: after {UPDATES} updates from a random start, against central "
            "differences of the upper loss after training again with other weights.",
        ),
    )


CASE = Case(
    name="accuracy",
    summary="error of the hypergradient against gradient evaluations, for every response",
    run=run,
)


def _row(
    stage: str, family: str, response: Response, evaluations: int, found: Tensor, reference: Tensor
) -> Row:
    lengths = float(found.norm() * reference.norm())
    return {
        "stage": stage,
        "family": family,
        "response": response.label,
        "evaluations": evaluations,
        "relative error": float((found - reference).norm() / reference.norm()),
        "cosine": float(found @ reference) / lengths if lengths else None,
    }


def _grid(most: int) -> list[int]:
    """Return the powers of two up to `most`."""
    return [2**k for k in range(most.bit_length())]
