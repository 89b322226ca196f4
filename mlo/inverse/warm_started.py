"""A linear solve that goes on where the last one stopped."""

import torch
from torch import Tensor

from mlo import tree
from mlo.context import Context
from mlo.inverse import arguments
from mlo.inverse.damped import damped
from mlo.inverse.identity import identity
from mlo.inverse.memory import recalled, remember
from mlo.inverse.protocol import HessianProduct, InverseProduct, Solve, inverse_product_of
from mlo.inverse.tolerance import default_tolerance, relative
from mlo.outcome import Outcome, Status, escalated
from mlo.tree import Params

_KEY = "w"
# A remembered w that is so much worse than w = 0 has not come from a smaller vector.
_WORSE = 100.0


def warm_started(
    solver: InverseProduct | Solve | None = None,
    *,
    steps: int = 1,
    tolerance: float | None = None,
) -> InverseProduct:
    """``w ← w + S(v - H w)``, `steps` times a call, where w is kept from one call to the next.

    On a fixed system the error is ``(I - S H)^k`` times the first one after k corrections. With
    ``S = ξI``, the default, it is the ``w ← w - ξ (H w - v)`` of SOBA; with a few steps of `cg` it
    is in the manner of AmIGO. The first call starts from ``w = 0``, and so does one whose names,
    shapes, dtypes or devices differ from what is kept.

    The residual in the outcome is measured before the last correction and, where the solver itself
    reports one, multiplied with that. An answer that is not finite is not kept.

    Args:
        solver: S, one of `mlo.inverse` or a function ``(hvp, vector, context)``; if None,
            `identity` with the problem's own learning rate.
        steps: Corrections of one call; each needs one Hessian product besides those of `solver`.
        tolerance: Relative residual that counts as converged; if None, ``eps^(3/4)``.

    Raises:
        ResponseError: If `steps` or `tolerance` is out of range or `solver` is none.

    References:
        Dagréou et al., 2022, arXiv 2201.13409 (SOBA); Arbel and Mairal, 2022, arXiv 2111.14580
        (AmIGO).

    >>> half, context = warm_started(identity(rate=0.5)), Context(problem="p")
    >>> [half(lambda v: v, {"x": torch.ones(1)}, context)[0]["x"].item() for _ in range(3)]
    [0.5, 0.75, 0.875]
    """
    arguments.count("warm_started", "steps", steps)
    arguments.non_negative("warm_started", "tolerance", tolerance)
    correct = inverse_product_of(identity() if solver is None else solver)
    label = f"warm_started({correct.label})"
    if steps > 1:
        label = f"warm_started({correct.label}, steps={steps})"

    def solve(hvp: HessianProduct, vector: Params, context: Context) -> tuple[Params, Outcome]:
        vector = tree.constants(vector)
        product = damped(hvp)
        length = tree.norm(vector)
        answer = recalled(context, _KEY, vector)
        products: int | Tensor = 0
        residual = torch.ones_like(length)
        outcome = Outcome(solver=correct.label, code=Status.ONE_STEP)
        for _ in range(steps):
            if answer is None:
                # From zero the residual is the vector; the product with zero is not spent.
                remainder = vector if steps == 1 else {n: t.clone() for n, t in vector.items()}
            else:
                remainder = tree.minus(vector, product(answer))
                products = products + 1
            residual = relative(tree.norm(remainder), length)
            correction, outcome = correct.solve(hvp, remainder, context)
            products = products + outcome.products
            answer = correction if answer is None else tree.plus(answer, correction)
        assert answer is not None
        remember(context, _KEY, answer)
        return answer, _reported(label, residual, outcome, products, length, tolerance)

    total = None if correct.products is None else steps * (1 + correct.products)
    settings = {"solver": correct, "steps": steps, "tolerance": tolerance}
    return InverseProduct(label=label, solve=solve, products=total, settings=settings)


def _reported(
    label: str,
    residual: Tensor,
    last: Outcome,
    products: int | Tensor,
    length: Tensor,
    tolerance: float | None,
) -> Outcome:
    """Return how the call ended; `last` is the outcome of the last correction."""
    reached = torch.as_tensor(last.relative_residual, dtype=residual.dtype)
    if reached.device != residual.device:
        reached = torch.full_like(residual, float(reached))
    # NaN where the solver reports none.
    final = residual * torch.where(torch.isnan(reached), 1.0, reached)
    limit = default_tolerance(length) if tolerance is None else tolerance
    code = torch.where(final <= limit, int(Status.CONVERGED), int(Status.TRUNCATED))
    outcome = Outcome(solver=label, code=code, relative_residual=final, products=products)
    inner = torch.as_tensor(last.code)
    if inner.device != code.device:
        inner = torch.full_like(code, int(inner))
    for status in (Status.NEGATIVE_CURVATURE, Status.ZERO_CURVATURE, Status.DIVERGED):
        outcome = escalated(outcome, inner == int(status), status)
    outcome = escalated(outcome, residual > _WORSE, Status.DIVERGED)
    broken = ~torch.isfinite(residual) | (inner == int(Status.NON_FINITE))
    return escalated(outcome, broken, Status.NON_FINITE)
