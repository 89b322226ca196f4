"""The problems below one problem as functions of flat float64 vectors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mlo import tree
from mlo.context import Context
from mlo.functional import PureLoss
from mlo.graph import Graph
from mlo.tree import Params

Flat = dict[str, Tensor]
"""One vector of shape ``(n,)`` for each problem, by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class System:
    """A program and the batches on which it is solved; values are all that varies.

    Attributes:
        graph: A float64 program; see `mlo.testing.double`.
        target: The problem whose loss is differentiated.
        losses: Pure loss of each problem.
        batches: By problem.
        contexts: By problem; weight decay and the sign of the loss are read from them.
        values: Trained parameters of each problem, as constants: they give names and shapes.
        tilts: ``t_n`` by problem: ``⟨t_n, θ_n⟩`` is subtracted from its loss. With the gradient
            at a point as tilt, that point is a solution with the same second derivatives.
        inverses: Inverse Hessian of problems near the solution, where it is known.
    """

    graph: Graph
    target: str
    losses: Mapping[str, PureLoss]
    batches: Mapping[str, Any]
    contexts: Mapping[str, Context]
    values: Mapping[str, Params]
    tilts: Mapping[str, Tensor] = field(default_factory=dict)
    inverses: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)


def system_of(
    graph: Graph, target: str, batches: Mapping[str, Any], contexts: Mapping[str, Context]
) -> System:
    """Return the system at the parameters that the problems have now."""
    return System(
        graph=graph,
        target=target,
        losses={name: graph.pure_loss(name) for name in graph.problems},
        batches=batches,
        contexts=contexts,
        values={n: tree.constants(p.parameters()) for n, p in graph.problems.items()},
    )


def order_of(graph: Graph, name: str) -> tuple[str, ...]:
    """Return the solved problems below `name`, each before those that its solution depends on."""
    return tuple(graph.sweeps[name].flows)


def above(graph: Graph, name: str) -> tuple[str, ...]:
    """Return what the reduced loss of `name` reads beside `name`: its own sweep is solved away."""
    inside = order_of(graph, name)
    reads = [m for n in (name, *inside) for m in graph.reads(n)]
    return tuple(dict.fromkeys(m for m in reads if m != name and m not in inside))


def flat(params: Params) -> Tensor:
    """Return all entries as one vector of shape ``(n,)``.

    >>> flat({"a": torch.ones(1, 2), "b": torch.zeros(())})
    tensor([1., 1., 0.])
    """
    return torch.cat([t.reshape(-1) for t in params.values()])


def point_of(system: System) -> Flat:
    """Return copies of the parameters that the problems have now."""
    return {
        name: flat(tree.constants(problem.parameters())).clone()
        for name, problem in system.graph.problems.items()
    }


def assign(system: System, values: Flat) -> None:
    """Set the parameters of all problems."""
    with torch.no_grad():
        for name, vector in values.items():
            parameters = system.graph.problem(name).parameters()
            for key, tensor in named(vector, system.values[name]).items():
                parameters[key].copy_(tensor)


def named(vector: Tensor, like: Params) -> Params:
    """Return a vector of shape ``(n,)`` in the names and shapes of `like`."""
    pieces = torch.split(vector, [t.numel() for t in like.values()])
    return {
        key: piece.reshape(t.shape) for (key, t), piece in zip(like.items(), pieces, strict=True)
    }


def loss_of(system: System, name: str, values: Flat) -> Tensor:
    """Return ``sign·g + ½ Σ decay·θ²``: what the optimizer of `name` minimises, 0-dim."""
    # As in training: a loss may ask which parameters require a gradient.
    leaves = {n: tree.leaves(named(values[n], system.values[n])) for n in values}
    return _loss(system, name, leaves).detach()


def _loss(system: System, name: str, params: Mapping[str, Params]) -> Tensor:
    loss = system.losses[name](params, system.batches.get(name)).double()
    if name == system.target:
        return loss
    context = system.contexts[name]
    penalties = [
        (context.decay[key] * t.square()).sum() / 2
        for key, t in params[name].items()
        if key in context.decay
    ]
    total = context.sign * loss + sum(penalties, torch.zeros_like(loss))
    return total - system.tilts[name] @ flat(params[name]) if name in system.tilts else total


@torch.enable_grad()
def gradients(system: System, name: str, values: Flat) -> Flat:
    """Return the partial gradients of `loss_of` for every problem that it reads."""
    reads = [n for n in values if n in system.graph.reads(name) or n == name]
    leaves = {n: tree.leaves(named(values[n], system.values[n])) for n in reads}
    held = {n: named(values[n], system.values[n]) for n in values if n not in reads}
    loss = _loss(system, name, {**held, **leaves})
    tensors = [t for params in leaves.values() for t in params.values()]
    pieces = iter(_gradients_of(loss, tensors))
    return {n: flat({key: next(pieces) for key in params}) for n, params in leaves.items()}


@torch.enable_grad()
def second_derivatives(system: System, name: str, values: Flat) -> Callable[[Tensor], Flat]:
    """Return ``v ↦ {m: vᵀ ∂²/∂θ∂θ_m loss_of(name)}`` for every problem that it reads, and itself.

    By double backward. An operation without a second derivative raises a `RuntimeError`, here or
    when the map is used.
    """
    reads = [n for n in values if n in system.graph.reads(name) or n == name]
    leaves = {n: tree.leaves(named(values[n], system.values[n])) for n in reads}
    held = {n: named(values[n], system.values[n]) for n in values if n not in reads}
    loss = _loss(system, name, {**held, **leaves})
    own = list(leaves[name].values())
    first = torch.cat([g.reshape(-1) for g in _gradients_of(loss, own, create_graph=True)])
    tensors = [t for params in leaves.values() for t in params.values()]

    def product(vector: Tensor) -> Flat:
        # Outside, gradients may be off.
        with torch.enable_grad():
            image = first @ vector
        pieces = iter(_gradients_of(image, tensors, retain_graph=True))
        return {n: flat({key: next(pieces) for key in params}) for n, params in leaves.items()}

    return product


def _gradients_of(
    loss: Tensor, tensors: list[Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> list[Tensor]:
    found: tuple[Tensor | None, ...] = (None,) * len(tensors)
    if loss.requires_grad:
        found = torch.autograd.grad(
            loss,
            tensors,
            allow_unused=True,
            create_graph=create_graph,
            retain_graph=create_graph or retain_graph,
        )
    return [
        torch.zeros_like(t) if g is None else g.to_dense() if g.is_sparse else g
        for t, g in zip(tensors, found, strict=True)
    ]
