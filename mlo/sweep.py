"""The reverse sweep itself, which `hypergradient` and the engine share.

A `Point` is where a program stands: parameters, batches and what is known of each solved problem.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlo import tree
from mlo.context import Context
from mlo.functional import PureLoss
from mlo.graph import Graph
from mlo.inner import Inner, Upstream
from mlo.order import Sweep
from mlo.outcome import Outcome, Status, escalated, gravest
from mlo.randomness import Replay, unchanged
from mlo.second_derivatives import flat, nested
from mlo.separable import LossValue, scalar
from mlo.tree import Params


class Swept(NamedTuple):
    """What one sweep finds; a parameter that nothing depends on is absent from `gradient`."""

    loss: Tensor
    gradient: Params
    outcomes: dict[str, Outcome]
    size: float | Tensor | None = None
    """`tree.size` of the gradient, where the sweep has found it on its way."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """Where a program stands.

    Attributes:
        values: Parameters of every problem: the trained ones themselves, or constants elsewhere.
        batches: Batch of each problem in the sweep that takes one.
        contexts: Context of each solved problem.
        losses: Pure loss of each problem in the sweep.
        moved: Problems whose values are not where their modules stand.
    """

    values: Mapping[str, Params]
    batches: Mapping[str, Any]
    contexts: Mapping[str, Context]
    losses: Mapping[str, PureLoss]
    moved: frozenset[str] = frozenset()

    def exchanged(self, known: Mapping[str, Params]) -> dict[str, Params]:
        """Return those of `known` that a loss would not find in the modules anyway."""
        return {
            name: params
            for name, params in known.items()
            if params is not self.values[name] or name in self.moved
        }

    def present(self, name: str) -> Params | None:
        """Return the problem's own parameters, if they are where it stands."""
        return None if name in self.moved else self.values[name]


@torch.enable_grad()
def sweep(graph: Graph, target: str, point: Point, *, moves: bool = False) -> Swept:
    """Run the reverse sweep for `target`.

    Args:
        graph: The program.
        target: The problem to differentiate.
        point: Where the program stands.
        moves: Whether the buffers of `target` move, as in an update.
    """
    plan = graph.sweeps[target]
    loss, cotangents = _first_hops(graph, target, plan, point, moves=moves)
    constants = {n: tree.constants(point.values[n]) for n in (target, *plan.flows)}
    shared = Shared(device=_device_of(constants[target]))
    outcomes: dict[str, Outcome] = {}
    size: float | Tensor | None = None
    for name in plan.order:
        vector = cotangents.pop(name, {})
        response = graph.response(name)
        if not vector:
            outcomes[name] = Outcome(solver=response.label, code=Status.ZERO_RESPONSE)
            continue
        inner = inner_loss(graph, plan, name, point, shared)
        upstream = {above: constants[above] for above in plan.flows[name]}
        owned = _owned(vector, constants[name], _storages(cotangents))
        del vector
        answer, outcome = response(inner, constants[name], upstream, owned, point.contexts[name])
        outcomes[name], found = _examined(response.label, outcome, answer)
        if target in answer:
            size = found if len(answer) == 1 and target not in cotangents else None
        for above, part in answer.items():
            before = cotangents.get(above)
            cotangents[above] = part if before is None else tree.merged(before, part)
    for name, reports in shared.reports.items():
        if found_there := [*([outcomes[name]] if name in outcomes else []), *reports]:
            outcomes[name] = gravest(found_there)
    return Swept(loss.detach(), cotangents.get(target, {}), outcomes, size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """What the inner losses of one sweep share.

    Attributes:
        device: Where the program stands.
        replays: The random numbers of each problem's loss: one draw, wherever it is evaluated.
        reports: Outcomes of the solves within other problems' objectives.
    """

    device: torch.device
    replays: dict[str, Replay] = field(default_factory=dict)
    reports: dict[str, list[Outcome]] = field(default_factory=dict)

    def replay(self, name: str) -> Replay:
        """Return the replay of a problem's loss."""
        return self.replays.setdefault(name, Replay(self.device))


def inner_loss(graph: Graph, plan: Sweep, name: str, point: Point, shared: Shared) -> Inner:
    """Return the inner loss of a solved problem, everything that it does not depend on constant.

    In a nested program it is the reduced one: the solutions of the problems within are functions of
    what they read.
    """
    within = {n: inner_loss(graph, plan, n, point, shared) for n in plan.within[name]}
    contexts = {n: _context_within(point, plan, n, shared) for n in within}
    varying = {name, *plan.flows[name], *within}
    held = {n: tree.constants(point.values[n]) for n in graph.reads(name) if n not in varying}

    def evaluate(
        solution: Params, upstream: Upstream, batch: Any, *, first_order: bool = False
    ) -> LossValue:
        known = {**held, **upstream, name: solution}
        for lower, inner in within.items():
            respond = graph.response(lower).solution
            assert respond is not None  # The graph has refused it.
            reads = {n: known[n] for n in plan.flows[lower] if n in known}
            value = tree.constants(point.values[lower])
            # What a loss within draws must not move on what this one draws after it.
            with unchanged(shared.device):
                known[lower] = respond(inner, value, reads, contexts[lower])
        return point.losses[name].value(point.exchanged(known), batch, first_order=first_order)

    above = {n: point.values[n] for n in plan.flows[name] if n not in point.moved}
    return Inner(
        evaluate=evaluate,
        batch=point.batches.get(name),
        replay=shared.replay(name),
        # The solutions within have no forward-mode derivative.
        returns_weighted=False if within else point.losses[name].returns_weighted,
        separability=point.losses[name].separability,
        own=point.present(name),
        above=above,
        compiled=partial(evaluate, first_order=True) if point.losses[name].compiled else None,
    )


@torch.enable_grad()
def advanced(graph: Graph, target: str, point: Point) -> Point:
    """Return the point after the updates that responses make of their own, as `unrolled` does."""
    plan = graph.sweeps[target]
    # Each after those that its solution depends on.
    for name in reversed(tuple(plan.flows)):
        response = graph.response(name)
        if not response.advances or point.contexts[name].history is not None:
            continue
        assert response.solution is not None
        shared = Shared(device=_device_of(point.values[name]))
        inner = inner_loss(graph, plan, name, point, shared)
        upstream = {above: tree.constants(point.values[above]) for above in plan.flows[name]}
        start = tree.constants(point.values[name])
        context = replace(point.contexts[name], start=start)
        end = tree.constants(response.solution(inner, start, upstream, context))
        point = replace(
            point,
            values={**point.values, name: end},
            contexts={**point.contexts, name: context},
            moved=point.moved | {name},
        )
    return point


def _context_within(point: Point, plan: Sweep, name: str, shared: Shared) -> Context:
    """Return the context of a problem that is solved within another's objective."""
    return replace(
        point.contexts[name],
        upstream=flat({above: point.values[above] for above in plan.flows[name]}),
        reports=shared.reports.setdefault(name, []),
    )


def _first_hops(
    graph: Graph, target: str, plan: Sweep, point: Point, *, moves: bool
) -> tuple[Tensor, dict[str, Params]]:
    """Return the loss and its gradient for every wanted problem, from one backward pass."""
    reads = graph.reads(target)
    wanted = {
        n: tree.leaves(point.values[n]) if n in point.moved else point.values[n]
        for n in (target, *plan.order)
        if n in reads
    }
    held = {n: tree.constants(point.values[n]) for n in reads if n not in wanted}
    loss = scalar(
        point.losses[target].value(
            point.exchanged({**held, **wanted}),
            point.batches.get(target),
            moves=target if moves else None,
            first_order=True,
        )
    )
    inputs = flat(wanted)
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return loss, nested(inputs, found)


def _storages(cotangents: Mapping[str, Params]) -> set[int]:
    """Return where the tensors are kept that are still waiting to be answered or passed on."""
    return {
        t.untyped_storage().data_ptr()
        for params in cotangents.values()
        for t in params.values()
        if not t.is_sparse
    }


def _owned(vector: Params, like: Params, others: set[int]) -> Params:
    """Return the vector dense and complete, in memory that nothing else looks at."""
    whole = {
        name: torch.zeros_like(tensor) if name not in vector else vector[name]
        for name, tensor in like.items()
    }
    return tree.unshared(tree.dense(whole), others)


def _examined(label: str, outcome: Outcome, answer: Upstream) -> tuple[Outcome, float | Tensor]:
    """Report an answer that is zero or not finite, whatever the solver thought of it."""
    parts = flat(answer)
    if not parts:
        return replace(outcome, solver=label, code=Status.ZERO_RESPONSE), 0.0
    size = tree.size(parts)
    if isinstance(size, float):
        code = int(outcome.code)
        if size == 0:
            code = max(code, Status.ZERO_RESPONSE)
        elif not math.isfinite(size):
            code = Status.NON_FINITE
        return replace(outcome, solver=label, code=code), size
    outcome = escalated(replace(outcome, solver=label), size == 0, Status.ZERO_RESPONSE)
    return escalated(outcome, ~torch.isfinite(size), Status.NON_FINITE), size


def _device_of(params: Params) -> torch.device:
    return next(iter(params.values())).device
