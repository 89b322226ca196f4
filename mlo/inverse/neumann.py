"""The truncated Neumann series of the inverse Hessian."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mlo import tree
from mlo.context import Context, Rate
from mlo.device import synchronous
from mlo.errors import ResponseError, nearest
from mlo.inverse import arguments, power
from mlo.inverse.damped import damped
from mlo.inverse.protocol import HessianProduct, InverseProduct
from mlo.inverse.tolerance import default_tolerance, relative
from mlo.outcome import Outcome, Status, escalated
from mlo.tree import Params

# Squared lengths of the remainder that differ by less than this differ by rounding.
_GROWTH = 1.002


def neumann(
    terms: int = 10,
    rate: float | Literal["auto"] | None = None,
    *,
    damping: float = 0.0,
    tolerance: float | None = None,
) -> InverseProduct:
    """``H⁻¹ v ≈ ξ Σ_{j < terms} (I - ξH)ʲ v``; the error is exactly ``(I - ξH)^terms H⁻¹ v``.

    It converges if ``0 < ξ < 2 / λ_max``. Outside, the terms grow; that is noticed and reported as
    `Status.DIVERGED`. With ``terms=1`` it is `identity`. The residual in the outcome is that of the
    series one term shorter, which comes without a further product.

    With ``rate="auto"`` ξ is ``1 / |λ|_max``, estimated by power iteration: 8 products at the first
    call of a problem and 2 at every later one, as the eigenvector is kept in the problem's memory.
    The estimate is a lower bound of ``|λ|_max``, so ξ may come out too large while it is young; it
    diverges only if it is less than half of it.

    Args:
        terms: Terms of the series; one fewer Hessian products are spent.
        rate: ξ; ``"auto"`` estimates it; if None, the problem's own learning rate, parameter by
            parameter.
        damping: Added to the Hessian's diagonal.
        tolerance: Relative residual that counts as converged; if None, ``eps^(3/4)``.

    Raises:
        ResponseError: If an argument is out of range.

    References:
        Lorraine, Vicol and Duvenaud, 2020, arXiv 1911.02590.

    >>> half = neumann(terms=60, rate=0.5)
    >>> w, outcome = half(lambda v: v, {"x": torch.ones(1)}, Context(problem="p"))
    >>> w, outcome.converged
    ({'x': tensor([1.])}, True)
    """
    arguments.count("neumann", "terms", terms)
    if not isinstance(rate, str):
        arguments.positive("neumann", "rate", rate)
    elif rate != "auto":
        raise ResponseError(
            f"neumann: rate must be a number > 0, 'auto' or None, got {rate!r}"
            f"{nearest(rate, ['auto'])}"
        )
    arguments.damping("neumann", damping)
    arguments.non_negative("neumann", "tolerance", tolerance)
    label = _label(terms, rate, damping)

    def solve(hvp: HessianProduct, vector: Params, context: Context) -> tuple[Params, Outcome]:
        vector = tree.constants(vector)
        product = damped(hvp, damping)
        spent = 0
        if isinstance(rate, str):
            size, spent = power.largest_eigenvalue(product, vector, context)
            step = 1 / torch.where(size > 0, size, 1.0)
            # NaN stays NaN: where() above takes it for zero, which would hide it.
            rates: Mapping[str, Rate] = dict.fromkeys(vector, step + 0 * size)
        else:
            rates = context.rate_of_each(rate, vector)
        series = _summed(product, vector, rates, terms)
        limit = default_tolerance(next(iter(vector.values()))) if tolerance is None else tolerance
        outcome = _judged(series, limit, is_truncated=terms > 1)
        return series.answer, replace(outcome, solver=label, products=terms - 1 + spent)

    spent = power.FIRST if isinstance(rate, str) else 0
    settings = {"terms": terms, "rate": rate, "damping": damping, "tolerance": tolerance}
    return InverseProduct(
        label=label,
        solve=solve,
        products=terms - 1 + spent,
        linear=not isinstance(rate, str),
        sharded=not isinstance(rate, str),
        settings=settings,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Series:
    """The sum and what tells whether it converges.

    Attributes:
        answer: ``Ξ Σ_j (I - HΞ)ʲ v``, where Ξ is the diagonal of rates.
        length: ``‖v‖``.
        residual: ``‖(I - HΞ)^(terms - 1) v‖``, that of the sum without its last term.
        before: ``‖√Ξ r‖²`` of the last remainder but one, up to a factor that `last` shares.
        last: The same of the last remainder. Its ratio to `before` is the largest of the series,
            as ``log ‖√Ξ (I - HΞ)ʲ v‖`` is convex in j, so a series that ever grows does so here.
        still: Whether no product has changed the remainder beyond rounding: ``H v`` is zero.
    """

    answer: Params
    length: float | Tensor
    residual: float | Tensor
    before: float | Tensor
    last: float | Tensor
    still: bool | Tensor


def _judged(series: _Series, limit: float, *, is_truncated: bool) -> Outcome:
    """Return how the series went, from numbers where they can be had for free."""
    length, residual = series.length, series.residual
    growing = series.last > series.before * _GROWTH
    if isinstance(length, float) and isinstance(residual, float):
        relative_residual = residual / length if length > 0 else residual
        code = Status.CONVERGED if relative_residual <= limit else Status.TRUNCATED
        if series.still and length > 0 and is_truncated:
            code = Status.ZERO_CURVATURE
        if growing:
            code = Status.DIVERGED
        if not math.isfinite(residual):
            code = Status.NON_FINITE
        return Outcome(solver="", code=code, relative_residual=relative_residual)
    length, residual = torch.as_tensor(length), torch.as_tensor(residual)
    found = relative(residual, length)
    outcome = Outcome(
        solver="",
        code=torch.where(found <= limit, int(Status.CONVERGED), int(Status.TRUNCATED)),
        relative_residual=found,
    )
    if is_truncated:
        still = torch.as_tensor(series.still) & (length > 0)
        outcome = escalated(outcome, still, Status.ZERO_CURVATURE)
    outcome = escalated(outcome, torch.as_tensor(growing), Status.DIVERGED)
    return escalated(outcome, ~torch.isfinite(found), Status.NON_FINITE)


def _summed(
    product: HessianProduct, vector: Params, rates: Mapping[str, Rate], terms: int
) -> _Series:
    """Sum the series; `vector` is overwritten by the remainder, the images are only read."""
    rate = _shared(rates, vector)
    # With one rate for all, ξ stands before the sum, and a term is the remainder itself.
    factor: Rate = 1.0 if rate is None else rate
    remainder = vector
    term = remainder if rate is not None else tree.weighted(remainder, rates)
    answer = {name: t.clone() for name, t in term.items()}
    first = before = last = tree.inner(remainder, term)
    length = _root(first if rate is not None else tree.inner(vector, vector))
    for index in range(terms - 1):
        image = product(term)
        if index > 0 and index == terms - 2:
            before = tree.inner(remainder, term)
        tree.axpy_(remainder, image, -factor)
        # The next image is made before the name is bound again: two would be held.
        del image
        if rate is None:
            # The rates stand to the right of H: with one rate a parameter the order matters.
            for name, tensor in term.items():
                torch.mul(remainder[name], rates[name], out=tensor)
        tree.axpy_(answer, term, 1.0)
    if terms > 1:
        last = tree.inner(remainder, term)
    # With one rate a term is the remainder, so its norm is known.
    residual = _root(last if rate is not None else tree.inner(remainder, remainder))
    still = _is_still(answer, term, terms, length, residual)
    if rate is not None:
        torch._foreach_mul_(list(answer.values()), factor)
    return _Series(
        answer=answer, length=length, residual=residual, before=before, last=last, still=still
    )


def _is_still(
    answer: Params,
    term: Params,
    terms: int,
    length: float | Tensor,
    residual: float | Tensor,
) -> bool | Tensor:
    """Return whether all terms are one to rounding; where norms differ that needs no pass."""
    rounding = 8 * terms * torch.finfo(next(iter(term.values())).dtype).eps
    if isinstance(length, float) and isinstance(residual, float):
        if not math.isclose(residual, length, rel_tol=max(1e-3, rounding)):
            return False
        whole, one = float(tree.norm(answer)), float(tree.norm(term))
        return math.isclose(whole, terms * one, rel_tol=rounding)
    whole_norm, one_norm = tree.norm(answer), tree.norm(term)
    return (whole_norm - terms * one_norm).abs() <= rounding * whole_norm


def _root(squared: float | Tensor) -> float | Tensor:
    return squared.sqrt() if isinstance(squared, Tensor) else math.sqrt(squared)


def _shared(rates: Mapping[str, Rate], vector: Params) -> Rate | None:
    """Return the rate that all parameters share, None if there are several."""
    values = [rates[name] for name in vector]
    if not values:
        return None
    first = values[0]
    if isinstance(first, Tensor):
        if first.dim() > 0 or any(value is not first for value in values):
            return None
        return float(first) if synchronous(first.device) else first
    same = all(isinstance(value, int | float) and value == first for value in values)
    return first if same else None


def _label(terms: int, rate: float | str | None, damping: float) -> str:
    options = [f"terms={terms}"]
    if rate is not None:
        options.append(f"rate={rate!r}" if isinstance(rate, str) else f"rate={rate:g}")
    if damping:
        options.append(f"damping={damping:g}")
    return f"neumann({', '.join(options)})"
