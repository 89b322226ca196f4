"""An implicitly defined solution as a differentiable function of what it reads.

``θ*(a) = argmin_θ g(θ; a)`` enters autograd as one node whose backward is the implicit function
theorem, ``v ↦ -(H⁻¹v)ᵀ ∂²g/∂θ∂a``, and ``H⁻¹v`` as another whose backward is
``dH⁻¹ = -H⁻¹ dH H⁻¹``. Both backwards are made of differentiable operations again, so a problem
whose objective contains θ*(a) has exact Hessian products: those of its *reduced* objective. With an
approximate inverse W in place of H⁻¹ the same formulas hold with W throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mlo.context import Context
from mlo.curvature import hessian_product
from mlo.inner import Inner, Upstream
from mlo.inverse.protocol import InverseProduct
from mlo.response.protocol import Solution
from mlo.second_derivatives import Product, flat, nested
from mlo.tree import Params

Tensors = tuple[Tensor, ...]


def implicit_solution(solver: InverseProduct, product: Product) -> Solution:
    """``θ*(a)`` near the present ``a``, with ``dθ* = -W ∂²g/∂θ∂a da`` wherever it is evaluated.

    Where an upstream tensor is not the present one, as in a finite difference of the problem above,
    the solution moves by ``-W [∇g(θ; a) - ∇g(θ; a₀)]``: one Newton step, which leaves alone what of
    the gradient remains at ``a₀``.

    Args:
        solver: Computes ``W v``.
        product: Makes the Hessian products for it.
    """

    def solution(inner: Inner, value: Params, upstream: Upstream, context: Context) -> Params:
        above = flat(upstream)
        system = _System(
            inner=inner,
            solver=solver,
            product=product,
            context=context,
            names=tuple(value),
            keys=tuple(above),
        )
        outputs: Tensors = _Solution.apply(system, tuple(value.values()), *above.values())
        return dict(zip(value, outputs, strict=True))

    return solution


@dataclass(frozen=True, kw_only=True, eq=False)
class _System:
    """``∇g(θ; a) = 0`` on tensors in a fixed order.

    Attributes:
        names: Names of the solution's tensors.
        keys: Names of the upstream tensors, as by `flat`.
    """

    inner: Inner
    solver: InverseProduct
    product: Product
    context: Context
    names: tuple[str, ...]
    keys: tuple[str, ...]

    def named(self, tensors: Sequence[Tensor]) -> Params:
        return dict(zip(self.names, tensors, strict=True))

    def inverse(self, point: Tensors, above: Tensors, vector: Tensors) -> Tensors:
        """Return ``W v`` at a point; a constant."""
        # The forward pass of a function is not followed, but products take gradients in it.
        with torch.enable_grad():
            derivatives = self.product(self.inner, self.named(point), nested(self.keys, above))
            hvp = hessian_product(derivatives, self.context)
            # What a solver remembers of one vector is no start for another.
            context = replace(self.context, memory={})
            inverted, outcome = self.solver(hvp, self.named(vector), context)
        if context.reports is not None:
            context.reports.append(outcome)
        return tuple(inverted[name].detach() for name in self.names)

    def gradient(self, point: Sequence[Tensor], above: Sequence[Tensor]) -> Tensors:
        """Return ``±∇g`` with its graph, where `point` holds variables."""
        loss = self.inner(self.named(point), nested(self.keys, above)) * self.context.sign
        return _grad(loss, point, create_graph=True)

    def moved(self, value: Tensors, above: Tensors) -> Tensors:
        """Return the solution at `above`, one Newton step from `value`."""
        base = self.context.upstream
        present = [base.get(key) for key in self.keys]
        if all(p is None or p is t or _is_same(p, t) for p, t in zip(present, above, strict=True)):
            return tuple(t.detach() for t in value)
        with torch.enable_grad():
            point = _variables(value)
            here = self.gradient(point, above)
            before = [t if p is None else p for p, t in zip(present, above, strict=True)]
            there = self.gradient(point, before)
        change = tuple((h - t).detach() for h, t in zip(here, there, strict=True))
        step = self.inverse(value, above, change)
        return tuple(t - s for t, s in zip(value, step, strict=True))


class _Solution(torch.autograd.Function):
    """``a ↦ θ*(a)``."""

    @staticmethod
    def forward(ctx: Any, system: _System, value: Tensors, *above: Tensor) -> Tensors:
        point = system.moved(value, above)
        ctx.system = system
        ctx.save_for_backward(*point, *above)
        return point

    @staticmethod
    def backward(ctx: Any, *vector: Tensor) -> tuple[Tensor | None, ...]:
        system: _System = ctx.system
        size = len(system.names)
        point, above = ctx.saved_tensors[:size], ctx.saved_tensors[size:]
        inverted = _Inverse.apply(system, *point, *above, *vector)
        follows = torch.is_grad_enabled()
        with torch.enable_grad():
            variables, others = _aliases(point), _aliases(above)
            gradient = system.gradient(variables, others)
            product = _dot(gradient, [-w if follows else -w.detach() for w in inverted])
            found = _grad(product, others, create_graph=follows)
        return (None, None, *found)


class _Inverse(torch.autograd.Function):
    """``(θ, a, v) ↦ W(θ, a) v``."""

    @staticmethod
    def forward(ctx: Any, system: _System, *tensors: Tensor) -> Tensors:
        size, rest = len(system.names), len(system.names) + len(system.keys)
        inverted = system.inverse(tensors[:size], tensors[size:rest], tensors[rest:])
        # The solver may have returned its vector, which an output must not be.
        inverted = tuple(w.clone() if any(w is t for t in tensors) else w for w in inverted)
        ctx.system = system
        ctx.save_for_backward(*tensors[:rest], *inverted)
        return inverted

    @staticmethod
    def backward(ctx: Any, *vector: Tensor) -> tuple[Tensor | None, ...]:
        system: _System = ctx.system
        size, rest = len(system.names), len(system.names) + len(system.keys)
        saved = ctx.saved_tensors
        point, above, inverted = saved[:size], saved[size:rest], saved[rest:]
        again = _Inverse.apply(system, *point, *above, *vector)
        follows = torch.is_grad_enabled()
        with torch.enable_grad():
            variables, others = _aliases(point), _aliases(above)
            left, right = (
                [w if follows else w.detach() for w in pair] for pair in (again, inverted)
            )
            gradient = system.gradient(variables, others)
            image = _grad(_dot(gradient, right), variables, create_graph=True)
            product = -_dot(image, left)
            found = _grad(product, [*variables, *others], create_graph=follows)
        return (None, *found, *again)


def _variables(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().requires_grad_() for t in tensors]


def _aliases(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors as variables of their own, through which a derivative is partial."""
    return [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in tensors]


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()


def _grad(value: Tensor, inputs: Sequence[Tensor], *, create_graph: bool) -> Tensors:
    if not value.requires_grad:
        return tuple(torch.zeros_like(t) for t in inputs)
    found = torch.autograd.grad(value, inputs, create_graph=create_graph, allow_unused=True)
    return tuple(
        torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)
    )


def _is_same(present: Tensor, given: Tensor) -> bool:
    return present.data_ptr() == given.data_ptr()
