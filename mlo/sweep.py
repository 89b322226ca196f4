"""The reverse sweep itself, which `hypergradient` and the engine share."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlo import finite, micro_batches, tree
from mlo.clipping import Clipping
from mlo.graph import Graph
from mlo.inner import Upstream
from mlo.inner_loss import Shared, device_of, inner_loss, is_replicated, times
from mlo.order import Sweep
from mlo.outcome import Outcome, Status, escalated, gravest
from mlo.parallel.sharded_tensors import local
from mlo.point import Point
from mlo.precision import LossOverflowError
from mlo.ranks import Ranks
from mlo.second_derivatives import flat, nested
from mlo.separable import scalar
from mlo.tree import Params


class Swept(NamedTuple):
    """What one sweep finds; a parameter that nothing depends on is absent from `gradient`."""

    loss: Tensor
    gradient: Params
    outcomes: dict[str, Outcome]
    size: float | Tensor | None = None
    """`tree.size` of the gradient, where the sweep has found it on its way."""


@torch.enable_grad()
def sweep(
    graph: Graph,
    target: str,
    point: Point,
    *,
    moves: bool = False,
    scale: float = 1.0,
    clipping: Clipping | None = None,
) -> Swept:
    """Run the reverse sweep for `target`.

    Args:
        graph: The program.
        target: The problem to differentiate.
        point: Where the program stands.
        moves: Whether the buffers of `target` move, as in an update.
        scale: What its loss is multiplied by while it is differentiated.
        clipping: Bounds the parts of its gradient.

    Raises:
        LossOverflowError: If a scaled gradient is not finite.
    """
    plan = graph.sweeps[target]
    constants = {n: tree.constants(point.values[n]) for n in (target, *plan.flows)}
    loss, cotangents = _first_hops(graph, target, plan, point, moves=moves, scale=scale)
    direct = {} if clipping is None else cotangents.pop(target, {})
    shared = Shared(device=device_of(constants[target]))
    outcomes: dict[str, Outcome] = {}
    size: float | Tensor | None = None
    for name in plan.order:
        vector = cotangents.pop(name, {})
        response = graph.response(name)
        if point.ranks is not None and not is_replicated(graph, plan, name):
            vector = _mean(point.ranks, vector, constants[name])
        # With ranks, all must go on alike: what overflows on one shows in the mean at the end.
        if scale != 1.0 and point.ranks is None and not finite.is_finite(loss, vector):
            raise LossOverflowError
        if not vector:
            outcomes[name] = Outcome(solver=response.label, code=Status.ZERO_RESPONSE)
            continue
        inner = inner_loss(graph, plan, name, point, shared)
        upstream = {above: constants[above] for above in plan.flows[name]}
        owned = _owned(vector, constants[name], _storages(cotangents))
        del vector
        answer, outcome = response(inner, constants[name], upstream, owned, point.contexts[name])
        outcomes[name], found = _examined(response.label, outcome, answer, point.ranks)
        if target in answer:
            size = found if len(answer) == 1 and target not in cotangents else None
        for above, part in answer.items():
            before = cotangents.get(above)
            cotangents[above] = part if before is None else tree.merged(before, part)
    for name, reports in shared.reports.items():
        if found_there := [*([outcomes[name]] if name in outcomes else []), *reports]:
            outcomes[name] = gravest(found_there)
    gradient = cotangents.get(target, {})
    if point.ranks is not None:
        apart = [gradient] if clipping is None else [gradient, direct]
        loss, means = _means(point.ranks, loss, apart, constants[target])
        gradient, direct, size = means[0], means[-1], None
    if clipping is not None:
        gradient, size = clipping.of(direct, gradient), None
    return Swept(loss, gradient, outcomes, size)


def _first_hops(
    graph: Graph, target: str, plan: Sweep, point: Point, *, moves: bool, scale: float
) -> tuple[Tensor, dict[str, Params]]:
    """Return the loss and its gradient for every wanted problem, one backward pass a batch."""
    reads = graph.reads(target)
    wanted = {
        n: tree.leaves(point.values[n]) if n in point.moved else point.values[n]
        for n in (target, *plan.order)
        if n in reads
    }
    held = {n: tree.constants(point.values[n]) for n in reads if n not in wanted}
    exchanged = point.exchanged({**held, **wanted})
    inputs = flat(wanted)

    def hop(weight: float, batch: Any) -> tuple[Tensor, Params]:
        value = point.losses[target].value(
            exchanged, batch, moves=target if moves else None, first_order=True
        )
        loss = scalar(times(weight, value))
        if not loss.requires_grad:
            return loss.detach(), {}
        # In half precision the scale itself would be the largest number there is.
        scaled = loss if scale == 1.0 else loss.float() * scale
        found = point.losses[target].sharded.gradients(scaled, list(inputs.values()))
        return loss.detach(), {k: g for k, g in zip(inputs, found, strict=True) if g is not None}

    loss, gradient = functools.reduce(
        lambda left, right: (left[0] + right[0], tree.merged(left[1], right[1])),
        (hop(weight, batch) for weight, batch in micro_batches.parts(point.batches.get(target))),
    )
    if scale != 1.0:
        gradient = tree.scaled(gradient, 1.0 / scale)
    return loss, nested(inputs, [gradient.get(key) for key in inputs])


def _mean(ranks: Ranks, vector: Params, like: Params) -> Params:
    """Return the mean over ranks, of which some may lack an entry that others have."""
    means = ranks.mean([vector.get(name) for name in like], like=list(like.values()))
    return {name: t for name, t in zip(like, means, strict=True) if t is not None}


def _means(
    ranks: Ranks, loss: Tensor, parts: Sequence[Params], like: Params
) -> tuple[Tensor, list[Params]]:
    """Return the means of a loss and of the parts of its gradient, in one reduction."""
    sent = [loss, *(part.get(name) for part in parts for name in like)]
    shapes = [loss, *(tensor for _ in parts for tensor in like.values())]
    value, *means = ranks.mean(sent, like=shapes)
    assert value is not None
    found = [
        {n: t for n, t in zip(like, means[start : start + len(like)], strict=True) if t is not None}
        for start in range(0, len(means), len(like))
    ]
    return value, found


def _storages(cotangents: Mapping[str, Params]) -> set[int]:
    """Return where the tensors are kept that are still waiting to be answered or passed on."""
    return {
        local(t).untyped_storage().data_ptr()
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


def _examined(
    label: str, outcome: Outcome, answer: Upstream, ranks: Ranks | None
) -> tuple[Outcome, float | Tensor]:
    """Report an answer that is zero or not finite, whatever the solver thought of it."""
    parts = flat(answer)
    if ranks is not None:
        # One rank's part of an answer may be zero where the answer is not.
        return replace(outcome, solver=label), math.nan
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
