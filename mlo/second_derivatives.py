"""Products of a vector with the second derivatives of an inner loss.

For an inner loss ``g(θ; a, b, ...)`` two linear maps are needed: the Hessian ``v ↦ ∂²g/∂θ² v`` and
the mixed derivative ``v ↦ vᵀ ∂²g/∂θ∂a``, the latter for every upstream problem in one call.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mlo import tree
from mlo.inner import Inner, Upstream
from mlo.parallel.sharded import NOT_SHARDED, Sharded
from mlo.tree import Params


class MixedProduct(Protocol):
    """``(v, factor) ↦ {a: factor vᵀ ∂²g/∂θ∂a}``."""

    def __call__(self, vector: Params, factor: float | Tensor = 1.0, /) -> Upstream:
        """Return the product; `vector` may be overwritten."""
        ...


@dataclass(frozen=True, kw_only=True)
class SecondDerivatives:
    """The gradient and the two linear maps at one point.

    Attributes:
        gradient: ``∇_θ g`` at the point, keyed like the solution.
        hessian: ``v ↦ ∂²g/∂θ² v``, keyed like the solution.
        mixed: ``(v, factor) ↦ {a: factor vᵀ ∂²g/∂θ∂a}``; tensors that the mixed derivative does not
            touch are left out. Call it last: it may free what `hessian` needs and overwrites its
            vector.
    """

    gradient: Callable[[], Params]
    hessian: Callable[[Params], Params]
    mixed: MixedProduct


@runtime_checkable
class Product(Protocol):
    """Makes the second derivatives of an inner loss at ``(solution, upstream)``."""

    @property
    def label(self) -> str:
        """How `explain` and error messages call it."""
        ...

    @property
    def evaluations(self) -> int:
        """Gradient evaluations of one product."""
        ...

    @property
    def overhead(self) -> int:
        """Gradient evaluations spent once, whatever the number of products."""
        ...

    def __call__(self, inner: Inner, solution: Params, upstream: Upstream, /) -> SecondDerivatives:
        """Return both maps at this point."""
        ...


def summed(parts: Sequence[tuple[float, SecondDerivatives]]) -> SecondDerivatives:
    """Return the second derivatives of ``Σ_i w_i g_i``, which are those of each ``g_i`` in turn.

    >>> linear = SecondDerivatives(
    ...     gradient=lambda: {"x": torch.ones(1)}, hessian=lambda v: v,
    ...     mixed=lambda v, factor=1.0: {"a": tree.scaled(v, factor)},
    ... )
    >>> summed([(0.5, linear), (0.25, linear)]).mixed({"x": torch.ones(1)}, 4.0)
    {'a': {'x': tensor([3.])}}
    """

    def gradient() -> Params:
        return _sum_of(tree.scaled(part.gradient(), weight) for weight, part in parts)

    def hessian(vector: Params) -> Params:
        return _sum_of(tree.scaled(part.hessian(vector), weight) for weight, part in parts)

    def mixed(vector: Params, factor: float | Tensor = 1.0, /) -> Upstream:
        total: Upstream = {}
        for weight, part in parts:
            # Each may overwrite its vector.
            own = {name: tensor.clone() for name, tensor in vector.items()}
            for problem, found in part.mixed(own, factor * weight).items():
                total[problem] = tree.merged(total.get(problem, {}), found)
        return total

    return SecondDerivatives(gradient=gradient, hessian=hessian, mixed=mixed)


def _sum_of(vectors: Iterable[Params]) -> Params:
    return functools.reduce(tree.merged, vectors)


def gradient_of(
    loss: Tensor,
    point: Params,
    *,
    create_graph: bool = False,
    sharded: Sharded = NOT_SHARDED,
) -> Params:
    """Return the gradient of `loss` at `point`, zeros where a parameter is not used.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> gradient_of(x**2, {"x": x})
    {'x': tensor(6.)}
    """
    if not loss.requires_grad:
        return tree.zeros_like(point)
    inputs = list(point.values())
    found: Sequence[Tensor | None]
    if create_graph:
        found = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
    else:
        found = sharded.gradients(loss, inputs)
    return {
        name: torch.zeros_like(point[name]) if g is None else g
        for name, g in zip(point, found, strict=True)
    }


def flat(upstream: Upstream) -> Params:
    """Return the tensors of all problems in one dictionary, keyed ``problem.name``.

    >>> flat({"a": {"w": torch.ones(1)}})
    {'a.w': tensor([1.])}
    """
    return {
        f"{problem}.{name}": t for problem, params in upstream.items() for name, t in params.items()
    }


def nested(keys: Iterable[str], values: Iterable[Tensor | None]) -> Upstream:
    """Return by problem what is keyed as by `flat`, entries that are None left out.

    >>> nested(["a.w", "a.b"], [torch.ones(1), None])
    {'a': {'w': tensor([1.])}}
    """
    upstream: Upstream = {}
    for key, value in zip(keys, values, strict=True):
        if value is not None:
            # The name of a problem is an identifier, so it ends at the first dot.
            problem, _, name = key.partition(".")
            upstream.setdefault(problem, {})[name] = value
    return upstream


def scaled(upstream: Upstream, factor: float | Tensor) -> Upstream:
    """Return ``factor * upstream``, itself where the factor is 1.

    >>> scaled({"a": {"w": torch.ones(1)}}, 2.0)
    {'a': {'w': tensor([2.])}}
    """
    if isinstance(factor, float) and factor == 1.0:
        return upstream
    return {problem: tree.scaled(params, factor) for problem, params in upstream.items()}
