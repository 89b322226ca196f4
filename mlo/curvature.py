"""The Hessian of what an optimizer minimises: the loss's, its weight decay and its sign counted."""

from collections.abc import Callable

from mlo import tree
from mlo.context import Context
from mlo.second_derivatives import SecondDerivatives
from mlo.tree import Params


def hessian_product(derivatives: SecondDerivatives, context: Context) -> Callable[[Params], Params]:
    """Return ``v ↦ (±∇²g + diag(decay)) v``.

    What is maximised is the minimum of its negative, whose Hessian is positive.

    >>> import torch
    >>> derivatives = SecondDerivatives(
    ...     gradient=dict, hessian=lambda v: tree.scaled(v, 2.0), mixed=lambda v: {})
    >>> context = Context(decay={"x": 0.5})
    >>> hessian_product(derivatives, context)({"x": torch.ones(1)})
    {'x': tensor([2.5000])}
    """
    if context.sign > 0 and not context.decay:
        return derivatives.hessian

    def hvp(direction: Params) -> Params:
        image = derivatives.hessian(direction)
        if context.sign < 0:
            image = tree.scaled(image, -1.0)
        if not context.decay:
            return image
        ridge = {n: context.decay[n] * t for n, t in direction.items() if n in context.decay}
        return tree.merged(image, ridge)

    return hvp
