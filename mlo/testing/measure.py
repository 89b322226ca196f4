"""Every response of a solved program, as declared and as measured."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlo import tree
from mlo.context import Context
from mlo.graph import Graph
from mlo.inner import Inner, Upstream
from mlo.outcome import Outcome
from mlo.response.protocol import Response
from mlo.testing.difference import Curve, difference, directions
from mlo.testing.report import Comparison
from mlo.testing.solve import own_gradient, settled, solve_near
from mlo.testing.system import Flat, System, flat, loss_of
from mlo.tree import Params

SOLVED_STEP = 1e-3
"""First step where problems are solved again, relative to the length of what moves, at least 1."""
PLAIN_STEP = 1e-4
"""First step where nothing is solved, and rounding is all the noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """One call of a response.

    Attributes:
        vector: What arrived, shape ``(n,)``.
        answer: What it passed on.
        outcome: How it went.
    """

    vector: Tensor
    answer: Upstream
    outcome: Outcome


def recorded(graph: Graph) -> tuple[Graph, dict[str, Answer]]:
    """Return the graph with responses that write down what they are asked and answer.

    The record holds the last call of each problem's response, by name.
    """
    record: dict[str, Answer] = {}

    def recording(name: str, response: Response) -> Response:
        def answer(
            inner: Inner, solution: Params, upstream: Upstream, vector: Params, context: Context
        ) -> tuple[Upstream, Outcome]:
            # A response may overwrite its vector, and the next one may overwrite this one's answer.
            arrived = flat(vector).clone()
            found, outcome = response(inner, solution, upstream, vector, context)
            kept = {a: {key: t.clone() for key, t in part.items()} for a, part in found.items()}
            record[name] = Answer(vector=arrived, answer=kept, outcome=outcome)
            return found, outcome

        return replace(response, answer=answer)

    problems = [
        replace(problem, response=recording(name, graph.response(name)))
        if _responds(graph, name)
        else problem
        for name, problem in graph.problems.items()
    ]
    return Graph(*problems, levels=graph.levels), record


def _responds(graph: Graph, name: str) -> bool:
    return any(name in sweep.flows for sweep in graph.sweeps.values())


def declared(answer: Params, like: Params) -> Tensor:
    """Return a response's answer as one vector of shape ``(n,)``, zeros where it left some out."""
    dense = {key: t.double() for key, t in tree.dense(answer).items()}
    return flat({key: dense.get(key, torch.zeros_like(t)) for key, t in like.items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A comparison, and how much the slopes on both sides of the point differ.

    Attributes:
        comparison: Along random directions.
        jump: Largest difference of one-sided slopes, relative to the size of the derivative.
    """

    comparison: Comparison
    jump: float


def measure_total(
    system: System, values: Flat, gradient: Tensor, *, count: int, seed: int, accuracy: float
) -> Measured:
    """Compare the hypergradient with differences of the solved loss."""
    target = system.target

    def curve_along(direction: Tensor) -> Curve:
        def curve(step: float) -> Tensor:
            moved = {**values, target: values[target] + step * direction}
            return loss_of(system, target, settled(system, target, moved)).reshape(1)

        return curve

    return _measured(curve_along, values[target], gradient, count, seed, accuracy)


def measure_response(
    system: System,
    values: Flat,
    name: str,
    above: str,
    vector: Tensor,
    answer: Tensor,
    *,
    count: int,
    seed: int,
    accuracy: float,
) -> Measured:
    """Compare one response with differences of ``⟨vector, θ_name*⟩`` as `above` moves."""

    def curve_along(direction: Tensor) -> Curve:
        def curve(step: float) -> Tensor:
            moved = {**values, above: values[above] + step * direction}
            return (vector @ solve_near(system, name, moved).point).reshape(1)

        return curve

    return _measured(curve_along, values[above], answer, count, seed, accuracy)


def measure_update(
    system: System,
    values: Flat,
    name: str,
    above: str,
    step: Tensor,
    answer: Tensor,
    *,
    count: int,
    seed: int,
    accuracy: float,
) -> Measured:
    """Compare a response with differences of ``-⟨step, ∇g⟩`` as `above` moves: of one update."""

    def curve_along(direction: Tensor) -> Curve:
        def curve(width: float) -> Tensor:
            moved = {**values, above: values[above] + width * direction}
            return -(step @ own_gradient(system, name, moved)(values[name])).reshape(1)

        return curve

    return _measured(curve_along, values[above], answer, count, seed, accuracy, PLAIN_STEP)


def measure_partial(
    system: System, values: Flat, name: str, moving: str, gradient: Tensor, *, seed: int
) -> Measured:
    """Compare autograd's gradient of one loss with differences of its value, nothing re-solved."""

    def curve_along(direction: Tensor) -> Curve:
        def curve(step: float) -> Tensor:
            moved = {**values, moving: values[moving] + step * direction}
            return loss_of(system, name, moved).reshape(1)

        return curve

    return _measured(curve_along, values[moving], gradient, 2, seed, 1e-6, PLAIN_STEP)


def _measured(
    curve_along: Callable[[Tensor], Curve],
    point: Tensor,
    gradient: Tensor,
    count: int,
    seed: int,
    accuracy: float,
    relative_step: float = SOLVED_STEP,
) -> Measured:
    drawn = directions(point.numel(), count, seed).to(point.device)
    predicted = drawn @ gradient
    step = relative_step * max(1.0, float(point.norm()))
    typical = float(predicted.norm()) / len(drawn) ** 0.5
    values: list[float] = []
    errors: list[float] = []
    jumps: list[float] = []
    for direction in drawn:
        curve = curve_along(direction)
        here = curve(0.0)
        # Below this a difference is rounding, whatever the derivative.
        floor = 1e-10 * float(here.abs().max()) / step
        found = difference(
            curve, here, step=step, accuracy=torch.full_like(here, max(accuracy * typical, floor))
        )
        values.append(float(found.value) if abs(float(found.value)) > floor else 0.0)
        errors.append(float(found.error))
        jumps.append(abs(float(found.jump)))
    size = max(sum(v * v for v in values) ** 0.5, float(predicted.norm()))
    scale = size if size > 0 else 1.0
    comparison = Comparison(
        declared=tuple(map(float, predicted)),
        measured=tuple(values),
        uncertainty=sum(e * e for e in errors) ** 0.5 / scale,
    )
    return Measured(comparison=comparison, jump=max(jumps) * len(drawn) ** 0.5 / scale)
