"""Gradient descent on the objective of a solved problem, tilted a little by a cotangent.

Both penalty responses move the solution θ to the minimum of a tilted objective and look at what
the move changes. The tilt is a cotangent of norm ``1 / strength``, whatever the norm of the one
that came, so that the response scales with its cotangent and the move keeps one size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlo import tree
from mlo.context import Context, Rate
from mlo.device import synchronous
from mlo.errors import ResponseError
from mlo.inverse.tolerance import default_tolerance, relative
from mlo.outcome import Outcome, Status, escalated
from mlo.tree import Params


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Where a descent ended.

    Attributes:
        point: The last iterate.
        residual: ``‖tilt + pull(y)‖ / ‖tilt‖`` at the last iterate but one, which comes without a
            further evaluation.
        steps: Steps taken.
        growing: Whether the residual grew from one step to the next.
        still: Whether no step changed the pull beyond rounding.
    """

    point: Params
    residual: Tensor
    steps: int
    growing: Tensor
    still: Tensor


def tilt_of(vector: Params, strength: float) -> tuple[Params, Tensor]:
    """Return ``vector / (strength·‖vector‖)`` and ``strength·‖vector‖``; zeros for a zero vector.

    >>> tilt_of({"w": torch.tensor([3.0, 4.0])}, 10.0)
    ({'w': tensor([0.0600, 0.0800])}, tensor(50.))
    """
    length = tree.norm(vector)
    safe = torch.where(length == 0, torch.ones_like(length), length)
    return tree.scaled(vector, 1.0 / (strength * safe)), strength * length


def tolerance_of(tilt: Params, strength: float, tolerance: float | None) -> float:
    """Return `tolerance` or, if it is None, ``max(1, strength)·eps^(3/4)``, at most 0.01.

    The pull is a difference of gradients that may be `strength` times as large, and so may be its
    rounding.

    >>> f"{tolerance_of({'w': torch.ones(1)}, 100.0, None):.1e}"
    '6.4e-04'
    """
    if tolerance is not None:
        return tolerance
    return min(0.01, max(1.0, strength) * default_tolerance(tree.norm(tilt)))


def descend(
    pull: Callable[[Params], Params],
    start: Params,
    tilt: Params,
    rates: Mapping[str, Rate],
    *,
    steps: int,
    tolerance: float,
) -> Descent:
    """``y ← y - ξ·(tilt + pull(y))``, `steps` times from `start`, where the pull is zero.

    ``steps - 1`` evaluations of `pull`. On a CPU the descent stops one step after the residual has
    reached the tolerance; on an accelerator it goes on, as looking at the residual would wait.

    Args:
        pull: Gradient of the objective, minus that at `start`.
        start: The solution θ.
        tilt: Gradient of the linear term.
        rates: ξ of each parameter.
        steps: Steps at most.
        tolerance: Residual that is small enough.

    >>> halved = descend(
    ...     lambda y: y, {"w": torch.zeros(1)}, {"w": -torch.ones(1)}, {"w": 0.5},
    ...     steps=3, tolerance=0.0,
    ... )
    >>> halved.point, halved.residual
    ({'w': tensor([0.8750])}, tensor(0.2500))
    """
    length = tree.norm(tilt)
    eager = synchronous(length.device)
    noise = default_tolerance(length) / length.clamp(max=1.0)
    step = tree.weighted(tilt, rates)
    point = tree.minus(start, step)
    before = tree.dot(tilt, step).abs()
    residual = relative(length, length)
    moved = torch.zeros_like(length)
    growing = torch.zeros((), dtype=torch.bool, device=length.device)
    taken = 1
    while taken < steps:
        pulled = pull(point)
        left = tree.plus(pulled, tilt)
        step = tree.weighted(left, rates)
        point = tree.minus(point, step)
        taken += 1
        moved = torch.maximum(moved, relative(tree.norm(pulled), length))
        residual = relative(tree.norm(left), length)
        # On a convex objective ‖√ξ·residual‖ never grows if ξ < 2 / λ_max; in rounding it does.
        now = tree.dot(left, step).abs()
        growing = growing | ((now > before * 1.002) & (residual > noise))
        before = now
        if eager and residual <= tolerance:
            break
    still = (moved <= 8 * torch.finfo(length.dtype).eps) & (length > 0)
    if taken == 1:
        still = torch.zeros_like(still)
    return Descent(point=point, residual=residual, steps=taken, growing=growing, still=still)


def outcome_of(
    label: str, descents: Sequence[Descent], tolerance: float, context: Context
) -> Outcome:
    """Return the outcome of a response by the worst of its descents.

    >>> done = descend(
    ...     lambda y: y, {"w": torch.zeros(1)}, {"w": torch.ones(1)}, {"w": 1.0},
    ...     steps=3, tolerance=0.0,
    ... )
    >>> outcome_of("descent", [done], 0.0, Context()).status
    <Status.CONVERGED: 1>
    """
    # A maximum of several keeps a NaN.
    residual = torch.stack([descent.residual for descent in descents]).amax()
    outcome = Outcome(
        solver=label,
        code=torch.where(residual <= tolerance, int(Status.CONVERGED), int(Status.TRUNCATED)),
        relative_residual=residual,
        products=sum(descent.steps for descent in descents),
        note=context.unseen,
    )
    for descent in descents:
        outcome = escalated(outcome, descent.still, Status.ZERO_CURVATURE)
        outcome = escalated(outcome, descent.growing, Status.DIVERGED)
    return escalated(outcome, ~torch.isfinite(residual), Status.NON_FINITE)


def refuse_half_precision(solver: str, params: Mapping[str, Tensor]) -> None:
    """Refuse parameters whose gradients are too coarse to be subtracted.

    Raises:
        ResponseError: If a parameter is in half precision.

    >>> refuse_half_precision("value_function", {"w": torch.ones(1)})
    """
    for name, tensor in params.items():
        if tensor.dtype in (torch.float16, torch.bfloat16):
            raise ResponseError(
                f"{solver}: parameter {name!r} is {tensor.dtype}, whose rounding hides the "
                "difference of two gradients; keep parameters in float32 (autocast the forward "
                'pass) or use a response with product="autograd"'
            )


def minimised(change: Params, displacement: Params, context: Context) -> Params:
    """Return ``sign·change + decay·displacement``: what the optimizer makes of a gradient's change.

    The same map takes a Hessian-vector product of the loss to that of the minimised objective.

    >>> maximised = Context(sign=-1.0, decay={"w": 0.5})
    >>> minimised({"w": torch.ones(1)}, {"w": torch.ones(1)}, maximised)
    {'w': tensor([-0.5000])}
    """
    signed = tree.scaled(change, -1.0) if context.sign < 0 else change
    if not context.decay:
        return signed
    ridge = {n: context.decay[n] * t for n, t in displacement.items() if n in context.decay}
    return tree.merged(signed, ridge)
