"""Responses by the implicit function theorem: ``vᵀ ∂θ*/∂a = -(H⁻¹v)ᵀ ∂²g/∂θ∂a``."""

from dataclasses import replace

from mlo import inverse, tree
from mlo.context import Context
from mlo.inverse.protocol import InverseProduct, Solve, inverse_product_of
from mlo.outcome import Outcome
from mlo.product import FiniteDifference, Inner, Product, ProductName, Upstream, product_of
from mlo.response.protocol import Response
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

        def hvp(direction: Params) -> Params:
            image = derivatives.hessian(direction)
            if context.sign < 0:
                # What is maximised is the minimum of its negative, whose Hessian is positive.
                image = tree.scaled(image, -1.0)
            if not context.decay:
                return image
            ridge = {n: context.decay[n] * t for n, t in direction.items() if n in context.decay}
            return tree.merged(image, ridge)

        inverted, outcome = solver(hvp, vector, context)
        noted = replace(outcome, note=context.unseen) if context.unseen else outcome
        return derivatives.mixed(tree.scaled(inverted, -context.sign)), noted

    evaluations = None
    if solver.products is not None:
        per_product = second_derivatives.evaluations
        evaluations = second_derivatives.overhead + per_product * (solver.products + 1)
    return Response(label=label, answer=answer, evaluations=evaluations)


def identity(rate: float | None = None, *, product: ProductName | Product = "autograd") -> Response:
    """``-ξ vᵀ ∂²g/∂θ∂a``: the derivative of one update; see `mlo.inverse.identity`.

    >>> identity(rate=0.1).label
    'identity(rate=0.1)'
    """
    return implicit(inverse.identity(rate=rate), product=product)


def finite_difference(radius: float = 0.01, *, rate: float | None = None) -> Response:
    """``-ξ vᵀ ∂²g/∂θ∂a`` from two extra gradient evaluations: first-order only, as in DARTS.

    The vector is scaled by ξ, the problem's own learning rate: without it two paths of different
    length through a program would be added in different units.

    Args:
        radius: Norm of the perturbation of the weights.
        rate: ξ; if None, the problem's own learning rate, parameter by parameter.

    Raises:
        ResponseError: If `radius` or `rate` is not positive.

    References:
        Liu, Simonyan and Yang, 2019, arXiv 1806.09055.

    >>> finite_difference().evaluations
    2
    """
    response = implicit(inverse.identity(rate=rate), product=FiniteDifference(radius=radius))
    options = "" if radius == 0.01 else f"radius={radius:g}"
    if rate is not None:
        options = f"{options}, rate={rate:g}".lstrip(", ")
    return Response(
        label=f"finite_difference({options})",
        answer=response.answer,
        evaluations=response.evaluations,
    )


def neumann(
    terms: int = 10,
    rate: float | None = None,
    *,
    tolerance: float | None = None,
    product: ProductName | Product = "autograd",
) -> Response:
    """The implicit response with the truncated Neumann series; see `mlo.inverse.neumann`.

    >>> neumann(terms=5).evaluations
    6
    """
    return implicit(inverse.neumann(terms=terms, rate=rate, tolerance=tolerance), product=product)


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
