"""The response by one unrolled update: a learning rate in place of the inverse Hessian."""

from mlo import inverse, tree
from mlo.context import Context, Rate
from mlo.difference import FiniteDifference
from mlo.double_backward import Autograd
from mlo.inner import Inner, Upstream
from mlo.outcome import Outcome, Status
from mlo.product import ProductName, product_of
from mlo.response.protocol import Response
from mlo.response.solution import implicit_solution
from mlo.second_derivatives import Product
from mlo.tree import Params


def identity(rate: float | None = None, *, product: ProductName | Product = "autograd") -> Response:
    """``-ξ vᵀ ∂²g/∂θ∂a``: the derivative of one update; see `mlo.inverse.identity`.

    >>> identity(rate=0.1).label
    'identity(rate=0.1)'
    """
    second_derivatives = product_of(product)
    label = inverse.identity(rate=rate).label
    if product != "autograd":
        label = f"{label} with {second_derivatives.label} products"
    return _one_step(label, rate, second_derivatives)


def finite_difference(radius: float = 0.01, *, rate: float | None = None) -> Response:
    """``-ξ vᵀ ∂²g/∂θ∂a`` from two extra gradient evaluations: first-order only, as in DARTS.

    The vector is scaled by ξ, the problem's own learning rate: without it two paths of different
    length through a program would be added in different units. Where the loss returns
    `mlo.weighted`, one forward-mode pass takes the place of the difference and is exact.

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
    options = [] if radius == 0.01 else [f"radius={radius:g}"]
    if rate is not None:
        options.append(f"rate={rate:g}")
    return _one_step(
        f"finite_difference({', '.join(options)})", rate, FiniteDifference(radius=radius)
    )


def _one_step(label: str, rate: float | None, product: Product) -> Response:
    solver = inverse.identity(rate=rate)

    def answer(
        inner: Inner, solution: Params, upstream: Upstream, vector: Params, context: Context
    ) -> tuple[Upstream, Outcome]:
        mixed = product(inner, solution, upstream).mixed
        outcome = Outcome(solver=label, code=Status.ONE_STEP)
        rates = context.rate_of_each(rate, vector)
        common = _common([rates[name] for name in vector])
        if common is None:
            return mixed(tree.weighted(vector, rates), -context.sign), outcome
        # One rate for all can wait until after the product, which has fewer numbers to scale.
        return mixed(vector, -context.sign * common), outcome

    return Response(
        label=label,
        answer=answer,
        evaluations=product.overhead + product.evaluations,
        # The step of a finite difference follows the length of the vector.
        linear=isinstance(product, Autograd),
        sharded=isinstance(product, FiniteDifference),
        solver=solver,
        product=product,
        solution=implicit_solution(solver, product),
    )


def _common(rates: list[Rate]) -> Rate | None:
    first = rates[0]
    same = all(r is first or (isinstance(r, float) and r == first) for r in rates)
    return first if same else None
