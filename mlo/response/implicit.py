"""Responses by the implicit function theorem: ``vᵀ ∂θ*/∂a = -(H⁻¹v)ᵀ ∂²g/∂θ∂a``."""

from dataclasses import replace
from typing import Literal

from mlo import inverse
from mlo.context import Context
from mlo.curvature import hessian_product
from mlo.difference import FiniteDifference
from mlo.double_backward import Autograd
from mlo.inner import Inner, Upstream
from mlo.inverse.protocol import InverseProduct, Solve, inverse_product_of
from mlo.outcome import Outcome
from mlo.product import ProductName, product_of
from mlo.response.protocol import Response
from mlo.response.solution import implicit_solution
from mlo.second_derivatives import Product
from mlo.tree import Params


def implicit(
    solver: InverseProduct | Solve, *, product: ProductName | Product = "autograd"
) -> Response:
    """Answer with ``-(H⁻¹v)ᵀ ∂²g/∂θ∂a``, where `solver` computes ``H⁻¹v``.

    The optimizer's weight decay belongs to the objective that was minimised, so it is added to the
    Hessian.

    Args:
        solver: One of `mlo.inverse`, or a function ``(hvp, vector, context) -> (H⁻¹v, Outcome)``.
        product: ``"autograd"`` (double backward) or ``"finite_difference"`` (first-order only).

    Raises:
        ResponseError: If `product` is unknown or `solver` is none.

    >>> implicit(inverse.cg(steps=5)).label
    'cg(steps=5)'
    """
    second_derivatives = product_of(product)
    solver = inverse_product_of(solver)
    label = solver.label
    if product != "autograd":
        label = f"{label} with {second_derivatives.label} products"

    def answer(
        inner: Inner, solution: Params, upstream: Upstream, vector: Params, context: Context
    ) -> tuple[Upstream, Outcome]:
        derivatives = second_derivatives(inner, solution, upstream)
        inverted, outcome = solver.solve(hessian_product(derivatives, context), vector, context)
        if context.unseen:
            outcome = replace(outcome, note=context.unseen)
        return derivatives.mixed(inverted, -context.sign), outcome

    evaluations = None
    if solver.products is not None:
        per_product = second_derivatives.evaluations
        evaluations = second_derivatives.overhead + per_product * (solver.products + 1)
    return Response(
        label=label,
        answer=answer,
        evaluations=evaluations,
        linear=solver.linear and isinstance(second_derivatives, Autograd),
        sharded=solver.sharded and isinstance(second_derivatives, FiniteDifference),
        solver=solver,
        product=second_derivatives,
        solution=implicit_solution(solver, second_derivatives),
    )


def neumann(
    terms: int = 10,
    rate: float | Literal["auto"] | None = None,
    *,
    damping: float = 0.0,
    tolerance: float | None = None,
    product: ProductName | Product = "autograd",
) -> Response:
    """The implicit response with the truncated Neumann series; see `mlo.inverse.neumann`.

    >>> neumann(terms=5).evaluations
    6
    """
    solver = inverse.neumann(terms=terms, rate=rate, damping=damping, tolerance=tolerance)
    return implicit(solver, product=product)


def cg(
    steps: int = 10,
    *,
    damping: float = 0.0,
    tolerance: float | None = None,
    product: ProductName | Product = "autograd",
) -> Response:
    """The implicit response with conjugate gradients; see `mlo.inverse.cg`.

    >>> cg(steps=5).evaluations
    7
    """
    return implicit(inverse.cg(steps=steps, damping=damping, tolerance=tolerance), product=product)


def nystrom(
    rank: int = 10,
    damping: float = 0.1,
    *,
    seed: int = 0,
    tolerance: float | None = None,
    product: ProductName | Product = "autograd",
) -> Response:
    """The implicit response with a low-rank Hessian; see `mlo.inverse.nystrom`.

    >>> nystrom(rank=5).evaluations
    8
    """
    solver = inverse.nystrom(rank=rank, damping=damping, seed=seed, tolerance=tolerance)
    return implicit(solver, product=product)


def warm_started(
    solver: InverseProduct | Solve | None = None,
    *,
    steps: int = 1,
    tolerance: float | None = None,
    product: ProductName | Product = "autograd",
) -> Response:
    """The implicit response that goes on from its last solve; see `mlo.inverse.warm_started`.

    >>> warm_started().evaluations
    3
    """
    inverted = inverse.warm_started(solver, steps=steps, tolerance=tolerance)
    return implicit(inverted, product=product)


def exact(
    *,
    damping: float = 0.0,
    max_parameters: int = 5000,
    product: ProductName | Product = "autograd",
) -> Response:
    """The implicit response with the dense inverse, for small problems; see `mlo.inverse.exact`.

    >>> exact().label
    'exact()'
    """
    return implicit(inverse.exact(damping=damping, max_parameters=max_parameters), product=product)
