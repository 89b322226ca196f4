"""Products of a vector with the second derivatives of an inner loss.

For an inner loss ``g(θ; a, b, ...)`` two linear maps are needed, both symmetric in how they are
computed: the Hessian ``v ↦ ∂²g/∂θ² v`` and the mixed derivative ``v ↦ vᵀ ∂²g/∂θ∂a``, the latter for
every upstream problem in one call. A `Product` makes both, by double backward (`autograd`) or from
first-order gradients only (`finite_difference`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from mlo import tree
from mlo.errors import ResponseError, nearest
from mlo.tree import Params

Upstream = dict[str, Params]
"""Parameters of the problems that an inner loss reads, by problem name."""


class Inner(Protocol):
    """A pure inner loss: parameters in, scalar out, the same random numbers at every call."""

    def __call__(self, solution: Params, upstream: Upstream, /) -> Tensor:
        """Return ``g(solution; upstream)``, a 0-dim tensor."""
        ...


@dataclass(frozen=True, kw_only=True)
class SecondDerivatives:
    """The two linear maps at one point.

    Attributes:
        hessian: ``v ↦ ∂²g/∂θ² v``, keyed like the solution.
        mixed: ``v ↦ {a: vᵀ ∂²g/∂θ∂a}``; tensors that the mixed derivative does not touch are left
            out. Call it last: it may free what `hessian` needs.
    """

    hessian: Callable[[Params], Params]
    mixed: Callable[[Params], Upstream]


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


@dataclass(frozen=True, kw_only=True)
class Autograd:
    """Exact products by double backward: one forward pass, then one backward pass a product."""

    label: str = "autograd"
    evaluations: int = 1
    overhead: int = 1

    def __call__(self, inner: Inner, solution: Params, upstream: Upstream, /) -> SecondDerivatives:
        """Return both maps at this point."""
        point = tree.leaves(solution)
        above = {problem: tree.leaves(params) for problem, params in upstream.items()}
        loss = inner(point, above)
        gradient = _gradient(loss, point, create_graph=True)
        # An entry that does not depend on anything is constant: its derivative is zero.
        moving = {name: g for name, g in gradient.items() if g.requires_grad}

        def vjp(vector: Params, inputs: list[Tensor], *, keep: bool) -> list[Tensor | None]:
            if not moving or not inputs:
                return [None] * len(inputs)
            return list(
                torch.autograd.grad(
                    list(moving.values()),
                    inputs,
                    [vector[name] for name in moving],
                    retain_graph=keep,
                    allow_unused=True,
                )
            )

        def hessian(vector: Params) -> Params:
            columns = vjp(vector, list(point.values()), keep=True)
            return {
                name: torch.zeros_like(point[name]) if column is None else column
                for name, column in zip(point, columns, strict=True)
            }

        def mixed(vector: Params) -> Upstream:
            flat = _flat(above)
            return _nested(flat, vjp(vector, list(flat.values()), keep=False))

        return SecondDerivatives(hessian=hessian, mixed=mixed)


@dataclass(frozen=True, kw_only=True)
class FiniteDifference:
    """Central differences of first-order gradients, error O(radius²) on smooth losses.

    ``H v ≈ [∇g(θ + εv) - ∇g(θ - εv)] / 2ε`` with ``ε = radius / ‖v‖``. The weights themselves are
    never touched: the perturbed ones are new tensors, so nothing has to be restored.

    Attributes:
        radius: Norm of the perturbation. At 0.01 the error on a smooth float32 network is about
            3e-4, where truncation and rounding balance.

    References:
        Liu, Simonyan and Yang, 2019, arXiv 1806.09055 (DARTS).
    """

    radius: float = 0.01
    evaluations: int = 2
    overhead: int = 0

    def __post_init__(self) -> None:
        """Check the radius."""
        if not isinstance(self.radius, Real) or not 0 < self.radius < float("inf"):
            raise ResponseError(f"finite difference: radius must be > 0, got {self.radius!r}")

    @property
    def label(self) -> str:
        """How `explain` and error messages call it."""
        return f"finite_difference(radius={self.radius:g})"

    def __call__(self, inner: Inner, solution: Params, upstream: Upstream, /) -> SecondDerivatives:
        """Return both maps at this point.

        Raises:
            ResponseError: If a parameter is in half precision, where the difference is noise.
        """
        for name, tensor in solution.items():
            if tensor.dtype in (torch.float16, torch.bfloat16):
                raise ResponseError(
                    f"finite difference: parameter {name!r} is {tensor.dtype}, whose rounding "
                    "hides the difference; keep parameters in float32 (autocast the forward "
                    'pass) or use product="autograd"'
                )
        point = tree.constants(solution)
        above = {problem: tree.constants(params) for problem, params in upstream.items()}

        def difference(vector: Params, gradient: Callable[[Params], Params]) -> Params:
            length = tree.norm(vector)
            # A zero vector moves nothing, so that both sides agree and the answer is exactly zero.
            epsilon = self.radius / torch.where(length > 0, length, torch.ones_like(length))
            move = tree.scaled(vector, epsilon)
            ahead = gradient(tree.plus(point, move))
            behind = gradient(tree.minus(point, move))
            both = {name: ahead[name] for name in ahead if name in behind}
            return tree.scaled(tree.minus(both, behind), 0.5 / epsilon)

        def hessian(vector: Params) -> Params:
            def gradient(at: Params) -> Params:
                variables = tree.leaves(at)
                return tree.dense(_gradient(inner(variables, above), variables))

            return difference(vector, gradient)

        def mixed(vector: Params) -> Upstream:
            variables = {problem: tree.leaves(params) for problem, params in above.items()}
            flat = _flat(variables)

            def gradient(at: Params) -> Params:
                loss = inner(at, variables)
                if not loss.requires_grad:
                    return {}
                found = torch.autograd.grad(loss, list(flat.values()), allow_unused=True)
                return {key: g for key, g in zip(flat, found, strict=True) if g is not None}

            found = difference(vector, gradient)
            return _nested(flat, [found.get(key) for key in flat])

        return SecondDerivatives(hessian=hessian, mixed=mixed)


ProductName = Literal["autograd", "finite_difference"]
_BY_NAME: Mapping[str, Product] = {
    "autograd": Autograd(),
    "finite_difference": FiniteDifference(),
}


def product_of(choice: ProductName | Product) -> Product:
    """Return the product that a user named, or the one that was given.

    >>> product_of("autograd").label
    'autograd'

    Raises:
        ResponseError: If the name is not known.
    """
    if isinstance(choice, Product):
        return choice
    if not isinstance(choice, str) or choice not in _BY_NAME:
        hint = nearest(choice, _BY_NAME) if isinstance(choice, str) else ""
        raise ResponseError(f"product must be one of {sorted(_BY_NAME)}, got {choice!r}{hint}")
    return _BY_NAME[choice]


def _gradient(loss: Tensor, point: Params, *, create_graph: bool = False) -> Params:
    """Return the gradient of `loss` at `point`, zeros where a parameter is not used."""
    if not loss.requires_grad:
        return tree.zeros_like(point)
    found = torch.autograd.grad(
        loss,
        list(point.values()),
        create_graph=create_graph,
        allow_unused=True,
    )
    return {
        name: torch.zeros_like(point[name]) if g is None else g
        for name, g in zip(point, found, strict=True)
    }


def _flat(upstream: Upstream) -> Params:
    return {
        f"{problem}.{name}": t for problem, params in upstream.items() for name, t in params.items()
    }


def _nested(flat: Params, values: list[Tensor | None]) -> Upstream:
    nested: Upstream = {}
    for key, value in zip(flat, values, strict=True):
        if value is not None:
            # The name of a problem is an identifier, so it ends at the first dot.
            problem, _, name = key.partition(".")
            nested.setdefault(problem, {})[name] = value
    return nested
