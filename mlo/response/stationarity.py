"""The response by a penalty on the gradient of the inner loss."""

from mlo import tree
from mlo.context import Context
from mlo.double_backward import Autograd
from mlo.inner import Inner, Upstream, inner_of
from mlo.inverse import arguments
from mlo.outcome import Outcome
from mlo.response.inner_descent import (
    descend,
    minimised,
    outcome_of,
    refuse_half_precision,
    tilt_of,
    tolerance_of,
)
from mlo.response.inner_gradients import gradients_of
from mlo.response.protocol import Response
from mlo.second_derivatives import SecondDerivatives
from mlo.tree import Params


def stationarity_penalty(
    strength: float = 100.0,
    steps: int = 10,
    *,
    rate: float | None = None,
    tolerance: float | None = None,
) -> Response:
    """``σ·∂/∂a ½‖∇g(y_v) - c‖²`` where ``y_v = argmin_y ⟨v, y⟩ + σ/2·‖∇g(y) - c‖²``, ``c = ∇g(θ)``.

    The gradient ``∇g`` is that of θ, the penalty is ``σ = strength·‖v‖`` and the squared norm is
    weighted by the learning rates, ``‖u‖² = Σ ξ·u²``. So the answer scales with `v` by positive
    factors, `strength` means what it means for `mlo.value_function`, and each entry is in the
    problem's own units. The answer, ``σ·uᵀ ∂²g/∂θ∂a`` with ``u = ξ·(∇g(y_v) - c)``, is taken by
    double backward. Weight decay and the sign of the optimizer belong to the objective that is
    minimised. Subtracting `c` keeps θ still at ``v = 0`` even if the problem has not converged.

    The penalty's error is O(1 / strength), and zero on a quadratic. The descent's, on a quadratic,
    is ``(I - (ξH)²)^steps``: the Hessian of the penalty is ``ξH²``, so the descent makes a step of
    ξ², the square of the learning rate, in units of H². It needs the square of the number of steps
    that `mlo.neumann` needs, and a rate below ``√2 / λ_max``.

    Any stationary point satisfies the penalty, maxima and saddles too: it cannot see negative
    curvature. Where the Hessian is flat the penalty's own gradient ``H·(∇g - c)`` vanishes and
    nothing moves; that is reported as `Status.ZERO_CURVATURE`.

    Args:
        strength: Weight of the penalty against the cotangent's direction.
        steps: Gradient steps from θ. They cost ``steps + 1`` forward passes and ``2·steps + 1``
            backward passes.
        rate: ξ; if None, the problem's own learning rate, parameter by parameter.
        tolerance: Relative residual that counts as converged; on a CPU the descent stops there. If
            None, ``max(1, strength)·eps^(3/4)``, at most 0.01.

    Raises:
        ResponseError: If an argument is out of range. The response raises it for parameters in
            half precision, where differences of gradients are noise.

    References:
        Shen and Chen, 2023, arXiv 2302.05185 (G-PBGD).

    >>> stationarity_penalty(steps=20).label
    'stationarity_penalty(strength=100, steps=20)'
    """
    solver = "stationarity_penalty"
    arguments.positive(solver, "strength", strength)
    arguments.count(solver, "steps", steps)
    arguments.positive(solver, "rate", rate)
    arguments.non_negative(solver, "tolerance", tolerance)
    options = "" if rate is None else f", rate={rate:g}"
    label = f"{solver}(strength={strength:g}, steps={steps}{options})"
    second_derivatives = Autograd()
    # At θ one gradient; at every later point that of the graph and one product through it.
    evaluations = 1 + steps * (second_derivatives.overhead + second_derivatives.evaluations)

    def answer(
        inner: Inner, solution: Params, upstream: Upstream, vector: Params, context: Context
    ) -> tuple[Upstream, Outcome]:
        refuse_half_precision(solver, solution)
        inner = inner_of(inner).full_precision()
        start = tree.constants(solution)
        rates = context.rate_of_each(rate, start)
        tilt, penalty = tilt_of(vector, strength)
        limit = tolerance_of(tilt, strength, tolerance)
        leftover, _ = gradients_of(inner, start, upstream, own=True, above=False)

        def weighted_change(derivatives: SecondDerivatives, point: Params) -> Params:
            change = tree.minus(tree.dense(derivatives.gradient()), leftover)
            moved = tree.minus(point, start)
            return tree.weighted(minimised(change, moved, context), rates)

        def pull(point: Params) -> Params:
            derivatives = second_derivatives(inner, point, upstream)
            direction = weighted_change(derivatives, point)
            return minimised(derivatives.hessian(direction), direction, context)

        descent = descend(pull, start, tilt, rates, steps=steps, tolerance=limit)
        derivatives = second_derivatives(inner, descent.point, upstream)
        direction = weighted_change(derivatives, descent.point)
        outcome = outcome_of(label, [descent], limit, context)
        return derivatives.mixed(tree.scaled(direction, context.sign * penalty)), outcome

    return Response(label=label, answer=answer, evaluations=evaluations)
