"""The reverse sweep: the gradient of a problem's loss through every problem solved below it.

    cotangent[n] = ∂F/∂θ_n                      for every problem n that the loss F reads
    for n in the sweep's order:
        cotangent[a] += response_n(cotangent[n])[a]     for every problem a that θ_n* depends on
    hypergradient = cotangent[target]

Each solved problem is visited once, so the cost is linear in the edges of the graph, where
enumerating paths would be exponential.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from mlo import tree
from mlo.context import Context, context_of
from mlo.errors import BatchError, GraphError, MloError, ResponseError, nearest
from mlo.graph import Graph
from mlo.inner_loss import advanced
from mlo.outcome import Outcome
from mlo.point import Point
from mlo.randomness import unchanged
from mlo.sweep import sweep
from mlo.tree import Params


class Hypergradient(NamedTuple):
    """The total derivative of a problem's loss, and how each solved problem answered.

    Attributes:
        gradient: Keyed like ``module.named_parameters()``; zeros for unused and frozen ones.
        outcomes: One `Outcome` for each problem that was differentiated, by name.
    """

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

    >>> import torch
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
    if torch.is_inference_mode_enabled():
        raise MloError(
            "hypergradient takes gradients, which torch.inference_mode() switches off for good; "
            "call it outside, or under torch.no_grad(), which it lifts"
        )
    needed = (graph.problem(name).name, *graph.sweeps[name].flows)
    if batches is not None and not isinstance(batches, Mapping):
        raise BatchError(
            f"batches must map problem names to batches, got {type(batches).__name__}; expected "
            f"names among {needed}"
        )
    given = dict(batches or {})
    _check_batches(graph, needed, given)
    for each in needed:
        if not graph.problem(each).parameters():
            raise GraphError(
                f"problem {each!r}: none of its parameters requires a gradient any more; unfreeze "
                "some, or declare the graph without it"
            )
    known = contexts or {}
    point = Point(
        values={n: dict(p.parameters()) for n, p in graph.problems.items()},
        batches=given,
        contexts={n: known.get(n) or fresh_context(graph, n) for n in needed if n != name},
        losses={n: graph.pure_loss(n) for n in needed},
    )
    with unchanged(next(iter(point.values[name].values())).device):
        swept = sweep(graph, name, advanced(graph, name, point))
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
