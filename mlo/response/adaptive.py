"""The response through the update of an adaptive optimizer."""

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Adam, Optimizer

from mlo import tree
from mlo.context import Context
from mlo.errors import ResponseError
from mlo.inner import Inner, Upstream
from mlo.optimizer_derivative import pulled_back
from mlo.optimizer_step import check_differentiable
from mlo.outcome import Outcome, Status
from mlo.product import ProductName, product_of
from mlo.response.protocol import Response
from mlo.second_derivatives import Product
from mlo.tree import Params


def adaptive(*, product: ProductName | Product = "autograd") -> Response:
    """``-(Dᵀv)ᵀ ∂²g/∂θ∂a`` with ``D = ∂u/∂g``: the derivative of the optimizer's next update.

    The live optimizer would move ``θ⁺ = θ - u(∇g(θ), state)``, and `D` is the exact derivative of
    that `u`, bias correction and learning rate included: closed forms for `SGD`, `Adam`, `AdamW`
    and `RMSprop` with all of their options, autograd through one real step for other optimizers
    of torch that offer ``differentiable=True``. For plain SGD this is `identity()`. Parameters
    that the optimizer does not hold do not move, so nothing flows through them.

    The first update of Adam is ``ξ·sign(g)``, whose derivative is almost zero: give the optimizer a
    few steps first. `hypergradient` without contexts takes a fresh one.

    Args:
        product: ``"autograd"`` (double backward) or ``"finite_difference"`` (first-order only).

    Raises:
        ResponseError: If `product` is unknown; when answering, if the problem has no optimizer or
            one that cannot be differentiated.

    References:
        Choe et al., 2023, arXiv 2310.05674 (SAMA; without its perturbation of the upper problem).

    >>> adaptive().label
    'adaptive()'
    """
    second_derivatives = product_of(product)
    label = "adaptive()"
    if product != "autograd":
        label = f"{label} with {second_derivatives.label} products"

    def answer(
        inner: Inner, solution: Params, upstream: Upstream, vector: Params, context: Context
    ) -> tuple[Upstream, Outcome]:
        optimizer = check_differentiable(context.problem, context.optimizer)
        _check_known(optimizer, context.parameters, context.problem)
        derivatives = second_derivatives(inner, solution, upstream)
        gradient = tree.dense(derivatives.gradient())
        moved = pulled_back(optimizer, context.parameters, solution, gradient, vector)
        outcome = Outcome(solver=label, code=Status.ONE_STEP, note=_note(optimizer))
        return derivatives.mixed(tree.scaled(moved, -1.0)), outcome

    # The gradient at the point costs one evaluation where the products do not have it already.
    evaluations = max(second_derivatives.overhead, 1) + second_derivatives.evaluations
    return Response(label=label, answer=answer, evaluations=evaluations, product=second_derivatives)


def _check_known(optimizer: Optimizer, parameters: Mapping[str, Tensor], problem: str) -> None:
    known = {id(p) for p in parameters.values()}
    if not any(id(p) in known for group in optimizer.param_groups for p in group["params"]):
        raise ResponseError(
            f"problem {problem!r}: adaptive() needs the parameters that its optimizer holds, got "
            f"Context.parameters with {len(parameters)} others; make the context with "
            "mlo.context.context_of"
        )


def _note(optimizer: Optimizer) -> str:
    if isinstance(optimizer, Adam) and not optimizer.state:
        return (
            f"{type(optimizer).__name__} has made no step, and its first one, by the sign of the "
            "gradient, has a derivative near zero"
        )
    return ""
