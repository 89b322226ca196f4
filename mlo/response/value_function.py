"""The response by the value function: first-order gradients at a tilted minimum."""

from mlo import tree
from mlo.context import Context
from mlo.inner import Inner, Upstream, inner_of
from mlo.inverse import arguments
from mlo.outcome import Outcome
from mlo.response.inner_descent import (
    Descent,
    descend,
    minimised,
    outcome_of,
    refuse_half_precision,
    tilt_of,
    tolerance_of,
)
from mlo.response.inner_gradients import difference, gradients_of
from mlo.response.protocol import Response
from mlo.tree import Params


def value_function(
    strength: float = 100.0,
    steps: int = 10,
    *,
    rate: float | None = None,
    central: bool = False,
    tolerance: float | None = None,
) -> Response:
    """``σ·[∂g/∂a(y_v) - ∂g/∂a(θ)]`` where ``y_v = argmin_y g(y) - ⟨∇g(θ), y⟩ + ⟨v, y⟩ / σ``.

    It is the derivative of the value function ``min_y g(y) + ⟨v, y⟩ / σ`` by first-order gradients
    only, so it works where there is no double backward, as in fused attention and compiled
    modules. The penalty is ``σ = strength·‖v‖``, so the answer scales with `v` (by positive
    factors; by all with `central`) and the move of the weights, about ``‖H⁻¹v‖ / (‖v‖·strength)``
    long, does not. Subtracting the leftover gradient ``∇g(θ)`` keeps `θ` still at ``v = 0`` even
    if the problem has not converged. Weight decay and the sign of the optimizer belong to the
    objective that is minimised.

    Two errors add up. That of the penalty is O(1 / strength), with `central` O(1 / strength²), and
    zero on a quadratic. That of the descent, on a quadratic, is ``(I - ξH)^steps``, as for
    `mlo.neumann` with as many terms; more steps help only as long as it is the larger one. In
    float32 rounding is magnified by `strength`: beyond about 1000 it is what remains.
    The residual in the outcome is the one before the last step.

    Args:
        strength: Weight of the inner objective against the cotangent's direction.
        steps: Gradient steps from θ. They cost ``steps + 1`` gradient evaluations; with `central`
            ``2·steps + 1``, or 2 if ``steps=1``, which is `mlo.finite_difference`.
        rate: ξ, below ``2 / λ_max`` whatever the strength; if None, the problem's own learning
            rate, parameter by parameter.
        central: Take half the difference between ``y_v`` and ``y_-v``.
        tolerance: Relative residual that counts as converged; on a CPU the descent stops there. If
            None, ``max(1, strength)·eps^(3/4)``, at most 0.01.

    Raises:
        ResponseError: If an argument is out of range. The response raises it for parameters in
            half precision, where differences of gradients are noise.

    References:
        Liu et al., 2022, arXiv 2209.08709 (BOME). Kwon et al., 2023, arXiv 2301.10945 (F2SA).
        Shen and Chen, 2023, arXiv 2302.05185 (PBGD). Central: arXiv 2509.02937 (F2SA-p).

    >>> value_function(steps=20).label
    'value_function(strength=100, steps=20)'
    """
    solver = "value_function"
    arguments.positive(solver, "strength", strength)
    arguments.count(solver, "steps", steps)
    arguments.positive(solver, "rate", rate)
    arguments.non_negative(solver, "tolerance", tolerance)
    options = "" if rate is None else f", rate={rate:g}"
    options = f"{options}, central=True" if central else options
    label = f"{solver}(strength={strength:g}, steps={steps}{options})"
    # One step needs no gradient at θ, and a central difference none of what is above there.
    evaluations = (0 if steps == 1 else 1) + 2 * steps if central else 1 + steps

    def answer(
        inner: Inner, solution: Params, upstream: Upstream, vector: Params, context: Context
    ) -> tuple[Upstream, Outcome]:
        refuse_half_precision(solver, solution)
        for problem, params in upstream.items():
            refuse_half_precision(solver, {f"{problem}.{n}": t for n, t in params.items()})
        inner = inner_of(inner).full_precision().first_order()
        start = tree.constants(solution)
        rates = context.rate_of_each(rate, start)
        tilt, penalty = tilt_of(vector, strength)
        limit = tolerance_of(tilt, strength, tolerance)
        leftover, middle = gradients_of(inner, start, upstream, own=steps > 1, above=not central)

        def pull(point: Params) -> Params:
            gradient, _ = gradients_of(inner, point, upstream, own=True, above=False)
            return minimised(tree.minus(gradient, leftover), tree.minus(point, start), context)

        def moved_by(push: Params) -> tuple[Upstream, Descent]:
            descent = descend(pull, start, push, rates, steps=steps, tolerance=limit)
            _, above = gradients_of(inner, descent.point, upstream, own=False, above=True)
            return above, descent

        ahead, descent = moved_by(tilt)
        if not central:
            outcome = outcome_of(label, [descent], limit, context)
            return difference(ahead, middle, context.sign * penalty), outcome
        behind, other = moved_by(tree.scaled(tilt, -1.0))
        outcome = outcome_of(label, [descent, other], limit, context)
        return difference(ahead, behind, 0.5 * context.sign * penalty), outcome

    return Response(label=label, answer=answer, evaluations=evaluations, sharded=True)
