"""The truncated Neumann series of the inverse Hessian."""

import torch

from mlo import tree
from mlo.context import Context
from mlo.inverse import arguments
from mlo.inverse.protocol import HessianProduct, InverseProduct
from mlo.inverse.tolerance import default_tolerance, relative
from mlo.outcome import Outcome, Status, escalated
from mlo.tree import Params


def neumann(
    terms: int = 10, rate: float | None = None, *, tolerance: float | None = None
) -> InverseProduct:
    """``H⁻¹ v ≈ ξ Σ_{j < terms} (I - ξH)ʲ v``; the error is exactly ``(I - ξH)^terms H⁻¹ v``.

    It converges if ``0 < ξ < 2 / λ_max``. Outside, the terms grow; that is noticed and reported as
    `Status.DIVERGED`. With ``terms=1`` it is `identity`. The residual in the outcome is that of the
    series one term shorter, which comes without a further product.

    Args:
        terms: Terms of the series; one fewer Hessian products are spent.
        rate: ξ; if None, the problem's own learning rate, parameter by parameter.
        tolerance: Relative residual that counts as converged; if None, ``eps^(3/4)``.

    Raises:
        ResponseError: If `terms`, `rate` or `tolerance` is out of range.

    References:
        Lorraine, Vicol and Duvenaud, 2020, arXiv 1911.02590.

    >>> half = neumann(terms=60, rate=0.5)
    >>> w, outcome = half(lambda v: v, {"x": torch.ones(1)}, Context(problem="p"))
    >>> w, outcome.converged
    ({'x': tensor([1.])}, True)
    """
    arguments.count("neumann", "terms", terms)
    arguments.positive("neumann", "rate", rate)
    arguments.non_negative("neumann", "tolerance", tolerance)
    label = f"neumann(terms={terms})" if rate is None else f"neumann(terms={terms}, rate={rate:g})"

    def solve(hvp: HessianProduct, vector: Params, context: Context) -> tuple[Params, Outcome]:
        rates = context.rate_of_each(rate, vector)
        length = tree.norm(vector)
        remainder = vector
        answer = term = tree.weighted(vector, rates)
        before = tree.dot(remainder, term).abs()
        growing = torch.zeros((), dtype=torch.bool, device=length.device)
        moved = torch.zeros_like(length)
        for _ in range(terms - 1):
            image = hvp(term)
            moved = torch.maximum(moved, tree.norm(image))
            remainder = tree.minus(remainder, image)
            # The rates stand to the right of H: with one rate a parameter the order matters.
            term = tree.weighted(remainder, rates)
            answer = tree.plus(answer, term)
            # While the series converges, ‖√ξ·remainder‖ never grows; rounding is not growth.
            now = tree.dot(remainder, term).abs()
            growing = growing | (now > before * 1.002)
            before = now
        residual = relative(tree.norm(remainder), length)
        limit = default_tolerance(length) if tolerance is None else tolerance
        outcome = Outcome(
            solver=label,
            code=torch.where(residual <= limit, int(Status.CONVERGED), int(Status.TRUNCATED)),
            relative_residual=residual,
            products=terms - 1,
        )
        # A remainder that no product changes beyond rounding says that H v is zero.
        still = moved <= 8 * torch.finfo(length.dtype).eps * length
        if terms > 1:
            outcome = escalated(outcome, still & (length > 0), Status.ZERO_CURVATURE)
        return answer, escalated(outcome, growing, Status.DIVERGED)

    return InverseProduct(label=label, solve=solve, products=terms - 1)
