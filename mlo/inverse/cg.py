"""Conjugate gradients."""

import torch

from mlo import tree
from mlo.context import Context
from mlo.device import synchronous
from mlo.inverse import arguments
from mlo.inverse.protocol import HessianProduct, InverseProduct
from mlo.inverse.tolerance import default_tolerance, relative
from mlo.outcome import Outcome, Status, escalated
from mlo.tree import Params


def cg(steps: int = 10, *, damping: float = 0.0, tolerance: float | None = None) -> InverseProduct:
    """Solve ``(H + damping·I) w = v`` by conjugate gradients, exact after n steps in n dimensions.

    A step is accepted before convergence is tested, so one step solves ``H ∝ I``. A direction of
    negative curvature ends the solve and is reported. So does a Hessian that vanishes along the
    search direction; the iterate with the smallest residual is then the answer. On a CPU the loop
    leaves as soon as it is done; on an accelerator it runs all steps with finished ones masked, as
    leaving would wait for the device.

    Args:
        steps: Iterations at most, one Hessian product each.
        damping: Added to the Hessian's diagonal; a solve on a network that is not at its
            optimum is usually better with 1e-3 to 1e-2.
        tolerance: Relative residual that counts as converged; if None, ``eps^(3/4)``.

    Raises:
        ResponseError: If an argument is out of range.

    References:
        Hestenes and Stiefel, 1952; for hypergradients Pedregosa, 2016, arXiv 1602.02355.

    >>> w, outcome = cg(steps=1)(lambda v: tree.scaled(v, 4.0), {"x": torch.ones(3)},
    ...                          Context(problem="p"))
    >>> w, outcome.converged
    ({'x': tensor([0.2500, 0.2500, 0.2500])}, True)
    """
    arguments.count("cg", "steps", steps)
    arguments.non_negative("cg", "damping", damping)
    arguments.non_negative("cg", "tolerance", tolerance)
    label = f"cg(steps={steps})" if damping == 0 else f"cg(steps={steps}, damping={damping:g})"

    def solve(hvp: HessianProduct, vector: Params, context: Context) -> tuple[Params, Outcome]:
        del context
        length = tree.norm(vector)
        limit = length * (default_tolerance(length) if tolerance is None else tolerance)
        eager = synchronous(length.device)
        answer = best = tree.zeros_like(vector)
        residual = direction = vector
        squared = least = length**2
        active = length > 0
        negative = torch.zeros_like(active)
        flat = torch.zeros_like(active)
        largest = torch.zeros_like(squared)
        products = torch.zeros((), dtype=torch.long, device=length.device)
        rounding = 8 * torch.finfo(length.dtype).eps
        for _ in range(steps):
            if eager and not active:
                break
            image = hvp(direction)
            if damping:
                image = tree.plus(image, tree.scaled(direction, damping))
            product = tree.dot(direction, image)
            curvature = product / _nonzero(tree.norm(direction) ** 2)
            largest = torch.maximum(largest, curvature.abs())
            # Rounding leaves a little where the Hessian is singular; a step by it would explode.
            is_flat = curvature.abs() <= rounding * largest
            products = products + active
            negative = negative | (active & (curvature < 0) & ~is_flat)
            flat = flat | (active & is_flat)
            active = active & (curvature > 0) & ~is_flat
            # Where the solve is over the step is zero and the iterate stays.
            alpha = torch.where(active, squared / _nonzero(product), torch.zeros_like(squared))
            answer = tree.plus(answer, tree.scaled(direction, alpha))
            residual = tree.minus(residual, tree.scaled(image, alpha))
            following = tree.norm(residual) ** 2
            better = following < least
            best = _chosen(better, answer, best, eager=eager)
            least = torch.where(better, following, least)
            beta = torch.where(active, following / _nonzero(squared), torch.zeros_like(squared))
            active = active & (following.sqrt() > limit)
            direction = tree.plus(residual, tree.scaled(direction, beta))
            squared = following
        # A residual that has grown so far is what a singular Hessian does in rounding.
        flat = flat | (squared > 1e8 * least)
        answer = _chosen(flat, best, answer, eager=eager)
        squared = torch.where(flat, least, squared)
        solved = squared.sqrt() <= limit
        outcome = Outcome(
            solver=label,
            code=torch.where(solved, int(Status.CONVERGED), int(Status.TRUNCATED)),
            relative_residual=relative(squared.sqrt(), length),
            products=products,
        )
        # What a flat direction leaves after convergence is rounding, and no failure.
        outcome = escalated(outcome, negative & ~solved, Status.NEGATIVE_CURVATURE)
        outcome = escalated(outcome, flat & ~solved, Status.ZERO_CURVATURE)
        return answer, escalated(outcome, ~torch.isfinite(squared), Status.NON_FINITE)

    return InverseProduct(label=label, solve=solve, products=steps)


def _chosen(condition: torch.Tensor, one: Params, other: Params, *, eager: bool) -> Params:
    if eager:
        return one if condition else other
    return {name: torch.where(condition, one[name], other[name]) for name in one}


def _nonzero(number: torch.Tensor) -> torch.Tensor:
    return torch.where(number == 0, torch.ones_like(number), number)
