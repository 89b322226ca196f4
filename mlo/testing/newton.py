"""Minimisation to the last digits: L-BFGS, then Newton's method with conjugate gradients."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlo.testing.linear import Field, derivative_along, solve_symmetric

Products = Callable[[Tensor], Field]
"""Maps a point to ``v ↦ D gradient(point) v``."""

_EXACT = 1e-10
"""A difference over a step of 1e-2 is then good to 1e-8."""
_CLOSE = 1e-7


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Where a search for ``gradient(point) = 0`` ended.

    Attributes:
        point: Shape ``(n,)``.
        gradient_norm: Euclidean norm of the gradient there.
        distance: Estimated distance from the solution over ``1 + ‖point‖``: the length of the next
            Newton step, whatever the units of the loss.
        steps: Newton steps taken.
    """

    point: Tensor
    gradient_norm: float
    distance: float
    steps: int

    @property
    def converged(self) -> bool:
        """Whether the solution is found as far as differences of it need."""
        return self.distance <= _CLOSE


def newton(
    gradient: Field, start: Tensor, *, products: Products | None = None, steps: int = 30
) -> Solution:
    """Find ``gradient(x) = 0`` by Newton's method; a step is halved until the norm falls.

    Args:
        gradient: Maps shape ``(n,)`` to shape ``(n,)``.
        start: Where to begin.
        products: Makes products with the derivative of the gradient; by default central
            differences, for which `gradient` need not be the gradient of any function.
        steps: Newton steps at most.

    >>> root = newton(lambda x: x**3 - 8, torch.tensor([3.0], dtype=torch.float64))
    >>> round(float(root.point), 9), root.converged
    (2.0, True)
    """
    point = start
    here = gradient(point)
    distance = float("inf")
    taken = 0
    for _ in range(steps + 1):
        if not bool(torch.isfinite(here).all()):
            break
        made = _checked(gradient, point, here, products)
        move, left = solve_symmetric(made, here, tolerance=1e-8)
        # A step that does not solve its linear system says nothing of the distance.
        distance = float("inf")
        if left < 0.1:
            distance = float(move.norm()) / (1 + float(point.norm()))
        if distance <= _EXACT or taken == steps:
            break
        found = _shortened(gradient, point, here, move)
        if found is None:
            break
        shrunk = float(found[1].norm()) / float(here.norm())
        point, here = found
        taken += 1
        # Near the solution the distance shrinks as the gradient does; no step need be computed.
        if distance < 0.1 and distance * shrunk <= _EXACT:
            distance = distance * shrunk
            break
    return Solution(point=point, gradient_norm=float(here.norm()), distance=distance, steps=taken)


def chord(gradient: Field, start: Tensor, inverse: Field, *, steps: int = 12) -> Solution | None:
    """Find ``gradient(x) = 0`` close by with an inverse Hessian that was computed near by.

    Each step costs one gradient, and shrinks the distance by the relative change of the Hessian.

    Args:
        gradient: Maps shape ``(n,)`` to shape ``(n,)``.
        start: Where to begin.
        inverse: An approximate inverse of the gradient's derivative.
        steps: At most.

    Returns:
        The solution, or None if it is not reached.

    >>> start = torch.tensor([2.01], dtype=torch.float64)
    >>> found = chord(lambda x: x**2 - 4, start, lambda g: g / 4)
    >>> found is not None and round(float(found.point), 9)
    2.0
    """
    point, here = start, gradient(start)
    for taken in range(steps):
        move = inverse(here)
        there = gradient(point - move)
        before, after = float(here.norm()), float(there.norm())
        distance = float(move.norm()) / (1 + float(point.norm()))
        if before == 0 or distance <= _EXACT / 100:
            return Solution(point=point, gradient_norm=before, distance=distance, steps=taken)
        if not after < 0.5 * before:
            return None
        point, here = point - move, there
        remaining = distance * after / before
        if remaining <= _EXACT:
            return Solution(point=point, gradient_norm=after, distance=remaining, steps=taken + 1)
    return None


def minimise(
    value: Callable[[Tensor], float],
    gradient: Field,
    start: Tensor,
    *,
    products: Products | None = None,
    iterations: int = 500,
) -> Solution:
    """Minimise by L-BFGS with a strong Wolfe line search, then go on with `newton`.

    A start at which Newton's method converges at once is polished only.

    >>> x = torch.ones(2, dtype=torch.float64)
    >>> found = minimise(lambda x: float(x @ x), lambda x: 2 * x, x)
    >>> found.converged, found.gradient_norm < 1e-9
    (True, True)
    """
    polished = newton(gradient, start, products=products, steps=1)
    if polished.distance <= _EXACT:
        return polished
    descended = _descended(value, gradient, start, iterations)
    if not bool(torch.isfinite(descended).all()):
        return polished
    return newton(gradient, descended, products=products)


def _descended(
    value: Callable[[Tensor], float], gradient: Field, start: Tensor, iterations: int
) -> Tensor:
    variable = torch.nn.Parameter(start.clone())
    search = torch.optim.LBFGS(
        [variable],
        max_iter=iterations,
        max_eval=2 * iterations,
        history_size=30,
        tolerance_grad=1e-10 * float(gradient(start).abs().max()),
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        point = variable.detach()
        variable.grad = gradient(point)
        return value(point)

    # One step is a whole minimisation.
    optimizer: torch.optim.Optimizer = search
    optimizer.step(closure)
    return variable.detach()


def _checked(gradient: Field, point: Tensor, along: Tensor, products: Products | None) -> Field:
    """Return exact products where they are the derivative of the gradient, else differences.

    They are not where a part of a loss is detached, or has no second derivative.
    """

    def differences(direction: Tensor) -> Tensor:
        return derivative_along(gradient, point, direction)

    if products is None:
        return differences
    try:
        made = products(point)
        exact = made(along)
    except RuntimeError:
        return differences
    # So short a step crosses few kinks, and 1e-3 is enough to see what is detached.
    measured = derivative_along(gradient, point, along, radius=1e-7)
    slack = 1e-3 * float(measured.norm()) + 1e-6 * float(along.norm())
    return made if float((exact - measured).norm()) <= slack else differences


def _shortened(
    gradient: Field, point: Tensor, here: Tensor, move: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return the first of the points ``point - move / 2ᵏ`` whose gradient is shorter."""
    length = float(here.norm())
    for halvings in range(8):
        tried = point - move / 2**halvings
        there = gradient(tried)
        if float(there.norm()) < (1 - 0.25 / 2**halvings) * length:
            return tried, there
    return None
