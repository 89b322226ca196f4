"""Exact products by double backward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlo import tree
from mlo.forward_mode import separable_mixed
from mlo.inner import Inner, Upstream
from mlo.second_derivatives import SecondDerivatives, flat, gradient_of, nested, scaled, summed
from mlo.separable import Weighted, scalar
from mlo.tree import Params


@dataclass(frozen=True, kw_only=True)
class Autograd:
    """Exact products: one forward pass, then one backward pass a product.

    The mixed derivative of a separable loss takes a forward-mode pass instead, which is as exact.
    """

    label: str = "autograd"
    evaluations: int = 1
    overhead: int = 1

    def __call__(self, inner: Inner, solution: Params, upstream: Upstream, /) -> SecondDerivatives:
        """Return both maps at this point."""
        if inner.parts:
            return summed([(w, self(part, solution, upstream)) for w, part in inner.parts])
        point = _Point(inner, solution, upstream)

        def gradient() -> Params:
            return tree.constants(point.gradient())

        def hessian(vector: Params) -> Params:
            columns = point.pulled_back(vector, list(point.solution.values()), keep=True)
            return {
                name: torch.zeros_like(solution[name]) if column is None else column
                for name, column in zip(solution, columns, strict=True)
            }

        def mixed(vector: Params, factor: float | Tensor = 1.0, /) -> Upstream:
            if point.is_weighted():
                separable = separable_mixed(inner, solution, upstream, vector)
                if separable is not None:
                    return scaled(separable, factor)
            inputs = flat(point.upstream)
            found = point.pulled_back(vector, list(inputs.values()), keep=False)
            return scaled(nested(inputs, found), factor)

        return SecondDerivatives(gradient=gradient, hessian=hessian, mixed=mixed)


class _Point:
    """The gradient's graph at one point, built when it is first needed."""

    def __init__(self, inner: Inner, solution: Params, upstream: Upstream) -> None:
        self._inner = inner
        self.solution, self.upstream = inner.variables(solution, upstream)
        self._gradient: Params | None = None
        self._kept: Params | None = None
        self._weighted = inner.returns_weighted

    def is_weighted(self) -> bool:
        """Return whether the loss is separable; it is evaluated if that is not known yet."""
        if self._weighted is None:
            self.gradient()
        return bool(self._weighted)

    def gradient(self) -> Params:
        """Return the gradient, with its graph."""
        if self._gradient is None:
            with torch.enable_grad():
                loss = self._inner.value(self.solution, self.upstream)
                if self._weighted is None:
                    self._weighted = isinstance(loss, Weighted)
                self._gradient = gradient_of(scalar(loss), self.solution, create_graph=True)
        return self._gradient

    def pulled_back(
        self, vector: Params, inputs: list[Tensor], *, keep: bool
    ) -> tuple[Tensor | None, ...]:
        """Return the derivative of ``⟨vector, gradient⟩`` with respect to `inputs`."""
        moving = self._moving()
        if not moving or not inputs:
            return (None,) * len(inputs)
        found = torch.autograd.grad(
            list(moving.values()),
            inputs,
            [vector[name] for name in moving],
            retain_graph=keep,
            allow_unused=True,
        )
        if not keep:
            self._gradient = self._kept = None
        return found

    def _moving(self) -> Params:
        """Return the entries that depend on anything; the derivative of the others is zero."""
        if self._kept is None:
            self._kept = {n: g for n, g in self.gradient().items() if g.requires_grad}
        return self._kept
