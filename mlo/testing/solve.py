"""The problems below one problem, solved: what every response claims to differentiate.

    R_n(θ_n; what is above) = g_n(θ_n, θ_c*(θ_n, ...), ...)      c: the problems in n's own sweep
    solved:  ∇_θ_n R_n = 0  for every problem n in the sweep of the target

``R_n`` is the loss of `n` itself unless the program is nested. Nothing here uses the program's
responses or its Hessian products, so that it can judge them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mlo.testing.linear import Field, derivative_along, solve_symmetric
from mlo.testing.newton import Products, Solution, chord, minimise, newton
from mlo.testing.system import Flat, System, above, gradients, loss_of, order_of, second_derivatives

_PASSES = 20
"""A program without circles needs one; a nested one settles its inner problems on the way."""


def solve(system: System, name: str, values: Flat) -> Solution:
    """Minimise ``R_name`` from where it stands, what is below it settled at every point."""

    def value(point: Tensor) -> float:
        return float(loss_of(system, name, settled(system, name, {**values, name: point})))

    return minimise(
        value,
        own_gradient(system, name, values),
        values[name],
        products=products_of(system, name, values),
    )


class Below(NamedTuple):
    """A solved system.

    Attributes:
        system: With a tilt for every problem that could not be solved.
        values: Of all problems; one that could not be solved stays where it was.
        solutions: How the search for each ended.
    """

    system: System
    values: Flat
    solutions: dict[str, Solution]


def solved_below(system: System, start: Flat, dampings: Mapping[str, float]) -> Below:
    """Solve the sweep of the target from far away, each problem after those that it depends on.

    Args:
        system: The program.
        start: Where to begin.
        dampings: What the response of a problem adds to its Hessian. A problem that cannot be
            solved gets it as a ridge around where it stands.
    """
    names = order_of(system.graph, system.target)
    values, solutions = dict(start), dict[str, Solution]()
    for _ in range(_PASSES):
        moved = False
        for name in reversed(names):
            found = solve(system, name, values)
            moved = moved or found.steps > 0
            if name not in system.tilts:
                solutions[name] = found
            if found.converged:
                values[name] = found.point
            elif name not in system.tilts:
                system = _tilted(system, name, values, dampings.get(name, 0.0))
            values = settled(system, name, values)
        if not moved or not is_nested(system, names):
            break
    return Below(system, values, solutions)


def _tilted(system: System, name: str, values: Flat, damping: float) -> System:
    """Return the system with a linear term that makes `name` solved where it stands."""
    context = system.contexts[name]
    decay = {key: damping + context.decay.get(key, 0.0) for key in system.values[name]}
    context = replace(context, decay=decay if damping else context.decay)
    system = replace(system, contexts={**system.contexts, name: context})
    slope = own_gradient(system, name, values)(values[name])
    return replace(system, tilts={**system.tilts, name: slope})


def settled(system: System, name: str, values: Flat) -> Flat:
    """Return the values with the sweep of `name` solved, by Newton's method from close by."""
    names = order_of(system.graph, name)
    values = dict(values)
    for _ in range(_PASSES):
        steps = 0
        for problem in reversed(names):
            found = solve_near(system, problem, values)
            values[problem] = found.point
            steps += found.steps
            values = settled(system, problem, values)
        if not steps or not is_nested(system, names):
            break
    return values


def solve_near(system: System, name: str, values: Flat) -> Solution:
    """Solve one problem from where it stands, close to its solution."""
    gradient, start = own_gradient(system, name, values), values[name]
    if name in system.inverses and (found := chord(gradient, start, system.inverses[name])):
        return found
    return newton(gradient, start, products=products_of(system, name, values))


def products_of(system: System, name: str, values: Flat) -> Products | None:
    """Return exact Hessian products at any point, or None for a nested problem."""
    if order_of(system.graph, name):
        return None

    def products(point: Tensor) -> Field:
        product = second_derivatives(system, name, {**values, name: point})
        return lambda direction: product(direction)[name]

    return products


def reduced_gradients(system: System, name: str, values: Flat) -> Flat:
    """Return the gradients of ``R_name`` where its own sweep is solved, accurate to 1e-9.

    For a problem whose sweep is empty these are the partial gradients.
    """
    wanted = (name, *above(system.graph, name))
    found = gradients(system, name, values)
    for solved in order_of(system.graph, name):
        vector = found.pop(solved, None)
        if vector is None or not bool(vector.any()):
            continue
        for problem, part in answer_of(system, solved, values, vector).items():
            found[problem] = found.get(problem, torch.zeros_like(part)) + part
    return {n: found.get(n, torch.zeros_like(values[n])) for n in wanted}


def answer_of(system: System, name: str, values: Flat, vector: Tensor) -> Flat:
    """``{a: vᵀ ∂θ_name*/∂a}`` by the implicit function theorem: the reference response."""
    product = second_of(system, name, values)
    inverted, _ = solve_symmetric(lambda direction: product(direction)[name], vector)
    return {problem: -part for problem, part in product(inverted).items() if problem != name}


def second_of(system: System, name: str, values: Flat) -> Callable[[Tensor], Flat]:
    """Return ``v ↦ {m: vᵀ ∂²R_name/∂θ_name∂θ_m}``, `name` itself among the ``m``.

    By double backward or, for a nested problem and where that is not possible, by differences of
    the reduced gradients.
    """

    def differences(direction: Tensor) -> Flat:
        return _along(system, name, values, direction)

    if order_of(system.graph, name):
        return differences
    try:
        product = second_derivatives(system, name, values)
        product(torch.zeros_like(values[name]))
    except RuntimeError:
        return differences
    return product


def own_gradient(system: System, name: str, values: Flat) -> Field:
    """Return ``θ_name ↦ ∇R_name``, what is below it settled at every point."""

    def gradient(point: Tensor) -> Tensor:
        moved = settled(system, name, {**values, name: point})
        return reduced_gradients(system, name, moved)[name]

    return gradient


def _along(system: System, name: str, values: Flat, direction: Tensor) -> Flat:
    """Return the derivative of every gradient of ``R_name`` as θ_name moves along `direction`."""
    sizes: dict[str, int] = {}

    def field(point: Tensor) -> Tensor:
        moved = settled(system, name, {**values, name: point})
        found = reduced_gradients(system, name, moved)
        sizes.update({problem: part.numel() for problem, part in found.items()})
        return torch.cat(list(found.values()))

    joined = derivative_along(field, values[name], direction)
    return dict(zip(sizes, torch.split(joined, list(sizes.values())), strict=True))


def is_nested(system: System, names: Sequence[str]) -> bool:
    """Return whether any of the problems is solved through others."""
    return any(order_of(system.graph, n) for n in names)
