"""The identity in place of the inverse Hessian: one unrolled gradient step."""

from mlo import tree
from mlo.context import Context
from mlo.inverse import arguments
from mlo.inverse.protocol import HessianProduct, InverseProduct
from mlo.outcome import Outcome, Status
from mlo.tree import Params


def identity(rate: float | None = None) -> InverseProduct:
    """``H⁻¹ v ≈ ξ v``: the exact derivative of one step ``θ - ξ ∇g``, with no Hessian product.

    Args:
        rate: ξ; if None, the problem's own learning rate, parameter by parameter.

    Raises:
        ResponseError: If `rate` is not positive.

    References:
        Luketina et al., 2016, arXiv 1511.06727 (T1-T2).

    >>> import torch
    >>> w, _ = identity(rate=0.1)(lambda v: v, {"x": torch.ones(2)}, Context(problem="p"))
    >>> w
    {'x': tensor([0.1000, 0.1000])}
    """
    arguments.positive("identity", "rate", rate)
    label = "identity()" if rate is None else f"identity(rate={rate:g})"

    def solve(hvp: HessianProduct, vector: Params, context: Context) -> tuple[Params, Outcome]:
        del hvp
        step = tree.weighted(vector, context.rate_of_each(rate, vector))
        return step, Outcome(solver=label, code=Status.ONE_STEP)

    return InverseProduct(
        label=label, solve=solve, products=0, linear=True, sharded=True, settings={"rate": rate}
    )
