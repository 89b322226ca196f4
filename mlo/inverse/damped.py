"""The matrix that a solver inverts: the Hessian and what is added to its diagonal."""

from mlo import tree
from mlo.inverse.protocol import HessianProduct
from mlo.tree import Params


def damped(hvp: HessianProduct, damping: float = 0.0) -> HessianProduct:
    """Return ``v ↦ H v + damping·v``, its image dense, constant and keyed in the order of `v`.

    >>> import torch
    >>> damped(lambda v: v, 0.5)({"x": torch.ones(2)})
    {'x': tensor([1.5000, 1.5000])}
    """

    def product(direction: Params) -> Params:
        image = hvp(direction)
        if any(t.is_sparse or t.requires_grad for t in image.values()):
            # A solve is arithmetic: a graph that reaches into an image would hold all of them.
            image = tree.constants(tree.dense(image))
        if list(image) != list(direction):
            image = {name: image[name] for name in direction}
        return tree.axpy(image, direction, damping) if damping else image

    return product
