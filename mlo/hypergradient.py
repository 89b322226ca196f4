"""The reverse sweep: the gradient of a problem's loss through every problem solved below it.

    cotangent[n] = ∂F/∂θ_n                      for every problem n that the loss F reads
    for n in the sweep's order:
        cotangent[a] += response_n(cotangent[n])[a]     for every problem a that n's loss reads
    hypergradient = cotangent[target]

Each solved problem is visited once, so the cost is linear in the edges of the graph, where
enumerating paths would be exponential.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from mlo import tree
from mlo.context import Context, context_of
from mlo.errors import BatchError, ResponseError, nearest
from mlo.functional import PureLoss
from mlo.graph import Graph
from mlo.outcome import Outcome, Status, escalated
from mlo.product import Upstream
from mlo.randomness import replayed, unchanged
from mlo.tree import Params


class Hypergradient(NamedTuple):
    """The total derivative of a problem's loss, and how each solved problem answered.

    Attributes:
        gradient: Keyed like ``module.named_parameters()``; zeros for unused and frozen ones.
        outcomes: One `Outcome` for each problem that was differentiated, by name.
    """

    gradient: Params
    outcomes: dict[str, Outcome]


class Swept(NamedTuple):
    """What one sweep finds; a parameter that nothing depends on is absent from `gradient`."""

    loss: Tensor
    gradient: Params
    outcomes: dict[str, Outcome]


def hypergradient(
    graph: Graph,
    name: str,
    batches: Mapping[str, Any] | None = None,
    *,
    contexts: Mapping[str, Context] | None = None,
    throw: bool = False,
) -> Hypergradient:
    """``dF/dθ = ∂F/∂θ + Σ_paths (∂F/∂θ_n)ᵀ ∂θ_n*/∂θ`` at the current parameters.

    Pure: no parameter, buffer, ``.grad``, optimizer or random generator is changed, so that two
    calls give the same gradient. The `Engine` advances the generators, as training should.

    Args:
        graph: The program.
        name: The problem to differentiate.
        batches: The batch of `name` and of each problem in its sweep, by problem name; only those
            whose loss takes one.
        contexts: What is known of each solved problem's optimizer. By default a fresh optimizer
            tells the learning rates.
        throw: Raise if a solved problem could not answer, instead of only reporting it.

    Raises:
        GraphError: If no problem is called `name`.
        BatchError: If a batch is missing, or is given under a name that no problem has.
        ResponseError: If a response cannot be computed; with `throw`, also if an outcome failed.

    >>> from torch import nn
    >>> from mlo.problem import Problem
    >>> from mlo.response.implicit import cg
    >>> class Scalar(nn.Module):
    ...     def __init__(self, value):
    ...         super().__init__()
    ...         self.value = nn.Parameter(torch.tensor(value))
    >>> graph = Graph(
    ...     Problem(name="x", module=Scalar(3.0), response=cg(),
    ...             loss=lambda x, a: (x.value - a.value) ** 2),
    ...     Problem(name="a", module=Scalar(3.0), loss=lambda x: x.value ** 2),
    ... )
    >>> hypergradient(graph, "a").gradient
    {'value': tensor(6.)}
    """
    needed = (graph.problem(name).name, *graph.sweeps[name].order)
    if batches is not None and not isinstance(batches, Mapping):
        raise BatchError(
            f"batches must map problem names to batches, got {type(batches).__name__}; expected "
            f"names among {needed}"
        )
    given = dict(batches or {})
    _check_batches(graph, needed, given)
    known = contexts or {}
    found = {n: known.get(n) or fresh_context(graph, n) for n in graph.sweeps[name].order}
    values = {n: tree.constants(p.parameters()) for n, p in graph.problems.items()}
    losses = {n: graph.pure_loss(n) for n in needed}
    with unchanged(_device_of(values[name])):
        swept = sweep(graph, name, values, given, found, losses)
    failed = {n: o for n, o in swept.outcomes.items() if throw and o.failed}
    if failed:
        details = "; ".join(f"problem {n!r}: {o.message}" for n, o in failed.items())
        raise ResponseError(f"hypergradient of {name!r}: {details}")
    zeros = tree.zeros_like(tree.constants(dict(graph.problem(name).module.named_parameters())))
    gradient = {key: swept.gradient.get(key, zero) for key, zero in zeros.items()}
    return Hypergradient(gradient, swept.outcomes)


def fresh_context(graph: Graph, name: str) -> Context:
    """Return the context of a problem as its optimizer stands, made anew if it is a factory."""
    problem = graph.problem(name)
    optimizer = problem.optimizer
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        optimizer = optimizer(list(problem.parameters().values()))
    return context_of(name, problem.parameters(), optimizer)


@torch.enable_grad()
def sweep(
    graph: Graph,
    target: str,
    values: Mapping[str, Params],
    batches: Mapping[str, Any],
    contexts: Mapping[str, Context],
    losses: Mapping[str, PureLoss],
) -> Swept:
    """Run the reverse sweep for `target`; the engine and `hypergradient` share it.

    Args:
        graph: The program.
        target: The problem to differentiate.
        values: Current parameters of every problem, as constants.
        batches: Batch of each problem in the sweep that takes one.
        contexts: Context of each solved problem.
        losses: Pure loss of `target` and of each problem in its sweep.
    """
    plan = graph.sweeps[target]
    device = _device_of(values[target])
    loss, cotangents = _first_hops(
        losses[target], values, (target, *plan.order), batches.get(target)
    )
    outcomes: dict[str, Outcome] = {}
    for name in plan.order:
        vector = cotangents.pop(name, {})
        response = graph.response(name)
        if not vector:
            outcomes[name] = Outcome(solver=response.label, code=Status.ZERO_RESPONSE)
            continue
        full = tree.merged(tree.zeros_like(values[name]), tree.dense(vector))
        inner = _inner(losses[name], name, values, batches.get(name), device)
        upstream = {above: values[above] for above in plan.flows[name]}
        answer, outcome = response(
            inner, values[name], upstream, {k: full[k] for k in values[name]}, contexts[name]
        )
        outcomes[name] = _examined(response.label, outcome, answer)
        for above, part in answer.items():
            cotangents[above] = tree.merged(cotangents.get(above, {}), part)
    return Swept(loss.detach(), cotangents.get(target, {}), outcomes)


def _first_hops(
    loss_function: Callable[..., Tensor],
    values: Mapping[str, Params],
    wanted: tuple[str, ...],
    batch: Any,
) -> tuple[Tensor, dict[str, Params]]:
    """Return the loss and its gradient for every wanted problem, from one backward pass."""
    variables = {name: tree.leaves(values[name]) for name in wanted}
    loss = loss_function({**values, **variables}, batch)
    flat = [(n, key, t) for n, params in variables.items() for key, t in params.items()]
    found: tuple[Tensor | None, ...] = (None,) * len(flat)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, [t for _, _, t in flat], allow_unused=True)
    cotangents: dict[str, Params] = {}
    for (name, key, _), gradient in zip(flat, found, strict=True):
        if gradient is not None:
            cotangents.setdefault(name, {})[key] = gradient
    return loss, cotangents


def _inner(
    loss: PureLoss, name: str, values: Mapping[str, Params], batch: Any, device: torch.device
) -> Callable[[Params, Upstream], Tensor]:
    """Return the pure inner loss of a solved problem, everything else held constant."""

    def inner(solution: Params, upstream: Upstream) -> Tensor:
        return loss({**values, **upstream, name: solution}, batch)

    return replayed(inner, device)


def _examined(label: str, outcome: Outcome, answer: Upstream) -> Outcome:
    """Report an answer that is zero or not finite, whatever the solver thought of it."""
    outcome = replace(outcome, solver=label)
    flat = {f"{above}.{key}": t for above, part in answer.items() for key, t in part.items()}
    if not flat:
        return replace(outcome, code=Status.ZERO_RESPONSE)
    size = tree.largest(flat)
    outcome = escalated(outcome, size == 0, Status.ZERO_RESPONSE)
    return escalated(outcome, ~torch.isfinite(size), Status.NON_FINITE)


def _device_of(params: Params) -> torch.device:
    return next(iter(params.values())).device


def _check_batches(graph: Graph, needed: tuple[str, ...], batches: Mapping[str, Any]) -> None:
    for name in batches:
        if name not in graph.problems:
            raise BatchError(
                f"batches has a batch for {name!r}, expected names among {tuple(graph.problems)}"
                f"{nearest(name, graph.problems)}"
            )
    for name in needed:
        if graph.arguments[name].batch_required and name not in batches:
            raise BatchError(
                f"batches lacks a batch for problem {name!r}, whose loss takes one; got batches "
                f"for {tuple(batches)}"
            )
