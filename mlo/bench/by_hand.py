"""One upper step without a library, written as well as we can: what `mlo` is measured against.

Fused ``torch._foreach_*`` algebra in place, one forward with a graph for all Hessian products,
gradients of what is wanted only, perturbed weights swapped in by pointer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.optim import SGD

from mlo.bench.programs import Batch, Parts
from mlo.bench.variant import Steps
from mlo.device import synchronous

RADIUS = 0.01
"""Norm of the perturbation of the weights, the default of `mlo.finite_difference`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lower:
    """The solved problem as a loop sees it.

    Attributes:
        loss: The training loss of the batch of the last lower step.
        weights: Parameters of the model.
        upper: Parameters of the upper module.
        rate: Learning rate of the model.
    """

    loss: Callable[[], Tensor]
    weights: list[nn.Parameter]
    upper: list[nn.Parameter]
    rate: float


Indirect = Callable[[Lower, list[Tensor]], Sequence[Tensor]]
"""``(lower, v) -> -vᵀ H⁻¹ ∂²g/∂θ∂a`` for each upper parameter; it may overwrite v."""


def build(parts: Parts, indirect: Indirect) -> Steps:
    """Return the steps of a hand-written loop."""
    weights, upper = list(parts.model.parameters()), list(parts.upper.parameters())
    lower_optimizer = SGD(weights, lr=parts.rate)
    upper_optimizer = SGD(upper, lr=parts.upper_rate)
    train, valid = cycle(parts.train), cycle(parts.valid)
    last: list[Batch] = []

    def train_loss() -> Tensor:
        return parts.train_loss(parts.model, parts.upper, last[0])

    lower = Lower(loss=train_loss, weights=weights, upper=upper, rate=parts.rate)

    def lower_step() -> None:
        last[:] = [next(train)]
        _assign(weights, torch.autograd.grad(train_loss(), weights))
        lower_optimizer.step()
        lower_optimizer.zero_grad()

    def upper_step() -> None:
        loss = parts.validate(next(valid))
        found = torch.autograd.grad(loss, [*weights, *upper], allow_unused=True)
        vector = [g for g in found[: len(weights)] if g is not None]
        direct = found[len(weights) :]
        del found, loss
        through = indirect(lower, vector)
        _assign(upper, [t if d is None else t + d for t, d in zip(through, direct, strict=True)])
        upper_optimizer.step()
        upper_optimizer.zero_grad()

    return Steps(lower=lower_step, upper=upper_step, optimizer=upper_optimizer)


def finite_difference(lower: Lower, vector: list[Tensor]) -> Sequence[Tensor]:
    """``-ξ [∇_a g(θ + εv) - ∇_a g(θ - εv)] / 2ε`` with ``ε = RADIUS / ‖v‖``."""
    length = _norm(vector)
    torch._foreach_mul_(vector, RADIUS / length)
    kept = [p.data for p in lower.weights]
    # One buffer for both sides, and nothing to restore: the original weights are never written.
    moved = [torch.sub(p, m) for p, m in zip(kept, vector, strict=True)]
    try:
        _swap(lower.weights, moved)
        ahead = _upper_gradient(lower)
        for p, m, out in zip(kept, vector, moved, strict=True):
            torch.add(p, m, out=out)
        behind = _upper_gradient(lower)
    finally:
        for parameter, data in zip(lower.weights, kept, strict=True):
            parameter.data = data
            parameter.requires_grad_(True)
    torch._foreach_sub_(ahead, behind)
    torch._foreach_mul_(ahead, lower.rate * length / (2 * RADIUS))
    return ahead


def neumann(products: int) -> Indirect:
    """Return the series ``-ξ Σ_{j ≤ products} (I - ξH)ʲ v`` times the mixed derivative."""

    def indirect(lower: Lower, vector: list[Tensor]) -> Sequence[Tensor]:
        gradient = torch.autograd.grad(lower.loss(), lower.weights, create_graph=True)
        term = vector
        torch._foreach_mul_(term, lower.rate)
        answer = torch._foreach_neg(term)
        for _ in range(products):
            image = _product(gradient, lower.weights, term)
            torch._foreach_add_(term, image, alpha=-lower.rate)
            del image
            torch._foreach_sub_(answer, term)
        return torch.autograd.grad(gradient, lower.upper, answer)

    return indirect


def cg(products: int, damping: float) -> Indirect:
    """Return ``-(H + damping·I)⁻¹ v`` by conjugate gradients, times the mixed derivative."""

    def indirect(lower: Lower, vector: list[Tensor]) -> Sequence[Tensor]:
        gradient = torch.autograd.grad(lower.loss(), lower.weights, create_graph=True)
        residual = vector
        direction = [t.clone() for t in vector]
        answer = [torch.zeros_like(t) for t in vector]
        squared = _norm(residual) ** 2
        for step in range(products):
            image = _product(gradient, lower.weights, direction)
            torch._foreach_add_(image, direction, alpha=damping)
            alpha = squared / _dot(direction, image)
            _add_scaled(answer, direction, -alpha)
            if step == products - 1:
                break
            _add_scaled(residual, image, -alpha)
            del image
            following = _norm(residual) ** 2
            torch._foreach_mul_(direction, following / squared)
            torch._foreach_add_(direction, residual)
            squared = following
        return torch.autograd.grad(gradient, lower.upper, answer)

    return indirect


def _product(
    gradient: Sequence[Tensor], weights: Sequence[Tensor], vector: Sequence[Tensor]
) -> list[Tensor]:
    return list(torch.autograd.grad(gradient, weights, vector, retain_graph=True))


def _upper_gradient(lower: Lower) -> list[Tensor]:
    return list(torch.autograd.grad(lower.loss(), lower.upper))


def _swap(weights: Sequence[nn.Parameter], data: Sequence[Tensor]) -> None:
    for parameter, moved in zip(weights, data, strict=True):
        parameter.data = moved
        parameter.requires_grad_(False)


def _assign(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _norm(vector: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(vector)))
    return norm


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    # One read of each vector and no temporary.
    pairs = zip(left, right, strict=True)
    return torch.stack([torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in pairs]).sum()


def _add_scaled(target: list[Tensor], other: list[Tensor], factor: Tensor) -> None:
    if synchronous(factor.device):
        torch._foreach_add_(target, other, alpha=float(factor))
        return
    for a, b in zip(target, other, strict=True):
        a.addcmul_(b, factor)
