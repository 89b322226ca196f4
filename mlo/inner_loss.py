"""The inner losses of a sweep: those of solved problems, at the point where the program stands."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from mlo import micro_batches, tree
from mlo.context import Context
from mlo.graph import Graph
from mlo.inner import Inner, Upstream
from mlo.micro_batches import MicroBatches
from mlo.order import Sweep
from mlo.outcome import Outcome
from mlo.point import Point
from mlo.randomness import Replay, unchanged
from mlo.second_derivatives import flat, nested
from mlo.separable import LossValue, scalar
from mlo.tree import Params


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
    loss = point.losses[name]
    ranks = None if is_replicated(graph, plan, name) else point.ranks
    held = {n: tree.constants(point.values[n]) for n in graph.reads(name) if n not in varying}

    def evaluate(
        solution: Params,
        upstream: Upstream,
        batch: Any,
        *,
        first_order: bool = False,
        full_precision: bool,
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
        if ranks is None or not within:
            return total(known, batch, first_order=first_order, full_precision=full_precision)

        def of_solutions(solutions: Params) -> LossValue:
            moved = {**known, **nested(solutions, solutions.values())}
            return total(moved, batch, first_order=first_order, full_precision=full_precision)

        # A solution answers the mean of the cotangents that come from all ranks.
        solved = flat({lower: known[lower] for lower in within})
        read = [*solution.values(), *flat(upstream).values()]
        return ranks.everywhere(of_solutions, solved, reads=read)

    def total(known: Upstream, batch: Any, *, first_order: bool, full_precision: bool) -> LossValue:
        exchanged = point.exchanged(known)
        values = [
            (
                weight,
                loss.value(exchanged, each, first_order=first_order, full_precision=full_precision),
            )
            for weight, each in micro_batches.parts(batch)
        ]
        if len(values) == 1:
            return times(*values[0])
        return torch.stack([scalar(times(weight, value)) for weight, value in values]).sum()

    full = loss.autocast is None or not loss.autocast.responses
    above = {n: point.values[n] for n in plan.flows[name] if n not in point.moved}
    whole = Inner(
        evaluate=partial(evaluate, full_precision=full),
        batch=point.batches.get(name),
        replay=shared.replay(name),
        # The solutions within have no forward-mode derivative.
        returns_weighted=False if within or loss.sharded else loss.returns_weighted,
        separability=loss.separability,
        own=point.present(name),
        above=above,
        compiled=partial(evaluate, first_order=True, full_precision=full)
        if loss.compiled
        else None,
        precise=None if full else partial(evaluate, full_precision=True),
        ranks=ranks,
        sharded=loss.sharded,
    )
    each = micro_batches.parts(whole.batch)
    # Solutions within draw the same numbers wherever they are evaluated, so they stay together.
    if len(each) == 1 or any(plan.within.values()):
        return whole
    # A weight belongs to what its rank evaluates, before ranks take their mean.
    weighed = [MicroBatches(batches=(batch,), weights=(weight,)) for weight, batch in each]
    apart = tuple(
        (1.0, replace(whole, batch=batch, replay=Replay(shared.device))) for batch in weighed
    )
    return replace(whole, returns_weighted=False, parts=apart)


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
        shared = Shared(device=device_of(point.values[name]))
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


def times(weight: float, value: LossValue) -> LossValue:
    """Return ``weight * value``, the value itself where the weight is 1.

    >>> times(0.5, torch.tensor(4.0))
    tensor(2.)
    """
    return value if weight == 1.0 else value * weight


def is_replicated(graph: Graph, plan: Sweep, name: str) -> bool:
    """Return whether every rank has all of a problem's loss and answers linearly.

    Then the mean of the ranks' answers is the answer to the mean, and one reduction, at the end of
    the sweep, is enough.
    """
    reads = (name, *plan.within[name])
    takes_batches = any(graph.arguments[n].batch for n in reads)
    return graph.response(name).linear and not takes_batches and not plan.within[name]


def device_of(params: Params) -> torch.device:
    """Return where a vector is kept.

    >>> device_of({"x": torch.ones(1)})
    device(type='cpu')
    """
    return next(iter(params.values())).device
