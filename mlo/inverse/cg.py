"""Conjugate gradients."""

import math

import torch
from torch import Tensor

from mlo import tree
from mlo.context import Context
from mlo.device import synchronous
from mlo.inverse import arguments
from mlo.inverse.damped import damped
from mlo.inverse.protocol import HessianProduct, InverseProduct
from mlo.inverse.tolerance import default_tolerance, relative
from mlo.outcome import Outcome, Status, escalated
from mlo.tree import Params

# Curvature below this many eps of the largest one cannot be told from zero.
_ROUNDING = 32
# An iterate is kept before the squared residual grows by more than this over the smallest one.
_LEAVING = 4.0
# A squared residual that has grown so far is what a singular Hessian does in rounding.
_EXPLODED = 1e8


def cg(steps: int = 10, *, damping: float = 0.0, tolerance: float | None = None) -> InverseProduct:
    """Solve ``(H + damping·I) w = v`` by conjugate gradients, exact after n steps in n dimensions.

    A step is accepted before convergence is tested, so one step solves ``H ∝ I``. A direction of
    negative curvature ends the solve and is reported. So does a Hessian that vanishes along the
    search direction; the answer is then an iterate whose residual is at most twice the smallest.
    A product that is not finite makes the answer NaN.
    On a CPU the loop leaves as soon as it is done; on an accelerator it runs all steps with
    finished ones masked, as leaving would wait for the device.

    Besides the image of one product it holds the answer, the residual and the search direction (on
    an accelerator also the best iterate) and updates them in place, so `hvp` must not keep its
    argument; the vector and what `hvp` returns are only read.

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
    arguments.damping("cg", damping)
    arguments.non_negative("cg", "tolerance", tolerance)
    label = f"cg(steps={steps})" if damping == 0 else f"cg(steps={steps}, damping={damping:g})"

    def solve(hvp: HessianProduct, vector: Params, context: Context) -> tuple[Params, Outcome]:
        del context
        vector = tree.constants(vector)
        start = tree.dot(vector, vector)
        limit = default_tolerance(start) if tolerance is None else tolerance
        run = _leaving_early if synchronous(start.device) else _masking
        return run(damped(hvp, damping), vector, start, steps, limit, label)

    settings = {"steps": steps, "damping": damping, "tolerance": tolerance}
    return InverseProduct(label=label, solve=solve, products=steps, sharded=True, settings=settings)


def _leaving_early(
    product: HessianProduct,
    vector: Params,
    start: Tensor,
    steps: int,
    tolerance: float,
    label: str,
) -> tuple[Params, Outcome]:
    """Run with numbers that are read as they come; the residual overwrites the vector.

    `start` is ``‖vector‖²``.
    """
    rounding = _ROUNDING * torch.finfo(start.dtype).eps
    squared = least = kept_squared = length = first = float(start)
    limit = tolerance * tolerance * first
    residual = direction = vector
    # None stands for zero, where every solve starts.
    answer: Params | None = None
    kept: Params | None = None
    largest, products = 0.0, 0
    negative = flat = False
    while products < steps and squared > limit:
        image = product(direction)
        products += 1
        energy = float(tree.inner(direction, image))
        curvature = energy / length
        largest = max(largest, abs(curvature))
        # Rounding leaves a little where the Hessian is singular; a step by it would explode.
        flat = abs(curvature) <= rounding * largest
        negative = curvature < 0 and not flat
        if flat or negative:
            break
        if math.isnan(curvature):
            squared = math.nan
            break
        alpha = squared / energy
        if direction is residual:
            direction = _copied(residual, None)
        tree.axpy_(residual, image, -alpha)
        # The next image is made before the name is bound again: two would be held.
        del image
        following = float(tree.inner(residual, residual))
        if answer is not None and squared < kept_squared and following > _LEAVING * least:
            kept, kept_squared = _copied(answer, kept), squared
        if answer is None:
            answer = tree.scaled(direction, alpha)
        else:
            tree.axpy_(answer, direction, alpha)
        beta, squared = following / squared, following
        least = min(least, squared)
        if products < steps and squared > limit:
            tree.aypx_(direction, residual, beta)
            # The residual is orthogonal to the direction before, so this needs no pass.
            length = squared + beta * beta * length
    flat = flat or squared > _EXPLODED * least
    if flat and kept_squared < squared:
        answer, squared = kept, kept_squared
    if answer is None:
        answer = tree.zeros_like(vector)
    outcome = Outcome(
        solver=label,
        code=_status(squared, limit, negative=negative, flat=flat),
        relative_residual=math.sqrt(squared / first) if first > 0 else first,
        products=products,
    )
    return answer if math.isfinite(squared) else tree.scaled(answer, math.nan), outcome


def _status(squared: float, limit: float, *, negative: bool, flat: bool) -> Status:
    if not math.isfinite(squared):
        return Status.NON_FINITE
    if squared <= limit:
        # What a flat direction leaves after convergence is rounding, and no failure.
        return Status.CONVERGED
    if flat:
        return Status.ZERO_CURVATURE
    return Status.NEGATIVE_CURVATURE if negative else Status.TRUNCATED


def _copied(vector: Params, buffer: Params | None) -> Params:
    if buffer is None:
        return {name: t.clone() for name, t in vector.items()}
    torch._foreach_copy_(list(buffer.values()), list(vector.values()))
    return buffer


def _masking(
    product: HessianProduct,
    vector: Params,
    start: Tensor,
    steps: int,
    tolerance: float,
    label: str,
) -> tuple[Params, Outcome]:
    """Run all steps without reading a number; where the solve is over the iterate stays."""
    rounding = _ROUNDING * torch.finfo(start.dtype).eps
    squared = least = kept_squared = length = start
    limit = tolerance * tolerance * start
    answer, kept = tree.zeros_like(vector), tree.zeros_like(vector)
    residual, direction = vector, _copied(vector, None)
    active = ~(start <= limit)
    negative, flat = torch.zeros_like(active), torch.zeros_like(active)
    zero, largest = torch.zeros_like(start), torch.zeros_like(start)
    products = torch.zeros((), dtype=torch.long, device=start.device)
    for _ in range(steps):
        image = product(direction)
        products = products + active
        energy = tree.dot(direction, image)
        curvature = energy / _nonzero(length)
        largest = torch.maximum(largest, curvature.abs())
        is_flat = curvature.abs() <= rounding * largest
        negative = negative | (active & (curvature < 0) & ~is_flat)
        flat = flat | (active & is_flat)
        active = active & (curvature > 0) & ~is_flat
        alpha = torch.where(active, squared / _nonzero(energy), zero)
        tree.axpy_(residual, image, -alpha)
        del image
        following = tree.dot(residual, residual)
        leaving = (squared < kept_squared) & (following > _LEAVING * least)
        for name, tensor in kept.items():
            torch.where(leaving, answer[name], tensor, out=tensor)
        kept_squared = torch.where(leaving, squared, kept_squared)
        tree.axpy_(answer, direction, alpha)
        beta = torch.where(active, following / _nonzero(squared), zero)
        squared, least = following, torch.minimum(least, following)
        active = active & (squared > limit)
        tree.aypx_(direction, residual, beta)
        length = squared + beta * beta * length
    flat = flat | (squared > _EXPLODED * least)
    instead = flat & (kept_squared < squared)
    squared = torch.where(instead, kept_squared, squared)
    finite = torch.isfinite(squared)
    for name, tensor in answer.items():
        torch.where(instead, kept[name], tensor, out=tensor)
        tensor.masked_fill_(~finite, torch.nan)
    solved = squared <= limit
    outcome = Outcome(
        solver=label,
        code=torch.where(solved, int(Status.CONVERGED), int(Status.TRUNCATED)),
        relative_residual=relative(squared.sqrt(), start.sqrt()),
        products=products,
    )
    outcome = escalated(outcome, negative & ~solved, Status.NEGATIVE_CURVATURE)
    outcome = escalated(outcome, flat & ~solved, Status.ZERO_CURVATURE)
    return answer, escalated(outcome, ~finite, Status.NON_FINITE)


def _nonzero(number: Tensor) -> Tensor:
    return torch.where(number == 0, torch.ones_like(number), number)
