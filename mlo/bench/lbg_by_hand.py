"""One round of Learning by Grouping without a library, with exactly the passes that it needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.optim import Adam, Optimizer, SparseAdam

from mlo.bench.variant import Steps

Batch = tuple[Tensor, Tensor, Tensor]
"""`(batch,)` row numbers, `(batch, inputs)` inputs, `(batch,)` classes."""
Weighted = tuple[Tensor, Tensor]
"""Losses and weights of one shape; the mean of their product is the loss."""
Terms = Callable[[Any, Any, Batch], Weighted]
"""``(own module, module above, batch)`` to losses of the first and weights of the second."""
_forward_mode: Any = forward_ad  # Without types in torch.


@dataclass(frozen=True, kw_only=True, eq=False)
class Lbg:
    """The three levels, undeclared.

    Attributes:
        gam: T, inputs to `(batch, groups)` scores.
        experts: S_1 .. S_K, inputs to `(batch, classes)` logits.
        assignments: C, row numbers to `(batch, groups)` probabilities; its gradient is sparse.
        gam_terms: Of T, whose weights are C's.
        expert_terms: Of S, whose weights are T's.
        validation_loss: ``(gam, experts, batch) -> loss`` of C.
        train: Batches of T and S.
        validation: Batches of C.
        gam_step: ξ_T, the step that is unrolled through T.
        experts_step: ξ_S.
        learning_rates: Of T, S and C.
    """

    gam: nn.Module
    experts: nn.ModuleList
    assignments: nn.Module
    gam_terms: Terms
    expert_terms: Terms
    validation_loss: Callable[[nn.Module, nn.ModuleList, Batch], Tensor]
    train: list[Batch]
    validation: list[Batch]
    gam_step: float
    experts_step: float
    learning_rates: tuple[float, float, float]


class Level(nn.Module):
    """The terms of one solved problem."""

    def __init__(self, own: nn.Module, above: nn.Module, terms: Terms) -> None:
        super().__init__()
        self.own = own
        self.above = above
        self._terms = terms

    def forward(self, batch: Batch) -> Weighted:
        """Return losses and weights of a batch."""
        return self._terms(self.own, self.above, batch)


Mixed = Callable[[Level, Batch, list[Tensor]], Sequence[Tensor]]
"""``(level, batch, v) -> vᵀ ∂²g/∂θ∂a`` for the parameters a above."""


def by_autograd(level: Level, batch: Batch, vector: list[Tensor]) -> Sequence[Tensor]:
    """Differentiate the gradient along v: one forward, two backward passes."""
    losses, weights = level(batch)
    own, above = list(level.own.parameters()), list(level.above.parameters())
    gradient = torch.autograd.grad((losses * weights).mean(), own, create_graph=True)
    return torch.autograd.grad(gradient, above, vector)


def separably(level: Level, batch: Batch, vector: list[Tensor]) -> Sequence[Tensor]:
    """Weigh the derivative of the losses along v: one forward-mode pass, one backward pass."""
    with _forward_mode.dual_level():
        moving = {
            f"own.{name}": _forward_mode.make_dual(parameter.detach(), tangent)
            for (name, parameter), tangent in zip(level.own.named_parameters(), vector, strict=True)
        }
        losses, weights = torch.func.functional_call(level, moving, (batch,))
        along = _forward_mode.unpack_dual(losses).tangent
    return torch.autograd.grad((along * weights).mean(), list(level.above.parameters()))


def by_difference(level: Level, batch: Batch, vector: list[Tensor]) -> Sequence[Tensor]:
    """Take the difference of two first-order gradients at ``θ ± εv``, ``ε = 0.01 / ‖v‖``."""
    own, above = list(level.own.parameters()), list(level.above.parameters())
    epsilon = 0.01 / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(vector)))
    move = torch._foreach_mul(vector, epsilon)
    kept = [p.data for p in own]
    sides: list[Sequence[Tensor]] = []
    try:
        for moved in (torch._foreach_add(kept, move), torch._foreach_sub(kept, move)):
            for parameter, data in zip(own, moved, strict=True):
                parameter.data = data
                parameter.requires_grad_(False)
            losses, weights = level(batch)
            sides.append(torch.autograd.grad((losses * weights).mean(), above))
    finally:
        for parameter, data in zip(own, kept, strict=True):
            parameter.data = data
            parameter.requires_grad_(True)
    return [(a - b) * (0.5 / epsilon) for a, b in zip(*sides, strict=True)]


def build(lbg: Lbg, mixed: Mixed) -> Steps:
    """Return the steps of a hand-written loop: below, and the update of C.

    A round needs 5 forward passes and 3 first-order gradients, and the two mixed products.
    """
    gam, experts = list(lbg.gam.parameters()), list(lbg.experts.parameters())
    rates = lbg.learning_rates
    optimizers: tuple[Optimizer, ...] = (
        Adam(gam, lr=rates[0]),
        Adam(experts, lr=rates[1]),
        SparseAdam(list(lbg.assignments.parameters()), lr=rates[2], betas=(0.9, 0.99)),
    )
    train, validation = cycle(lbg.train), cycle(lbg.validation)
    gam_level = Level(lbg.gam, lbg.assignments, lbg.gam_terms)
    experts_level = Level(lbg.experts, lbg.gam, lbg.expert_terms)
    last: list[Batch] = []

    def train_level(level: Level, own: list[nn.Parameter], optimizer: Optimizer) -> None:
        for parameter in level.above.parameters():
            parameter.requires_grad_(False)
        losses, weights = level(last[0])
        gradients = torch.autograd.grad((losses * weights).mean(), own)
        for parameter in level.above.parameters():
            parameter.requires_grad_(True)
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    def lower_steps() -> None:
        last[:] = [next(train)]
        train_level(gam_level, gam, optimizers[0])
        train_level(experts_level, experts, optimizers[1])

    def upper_step() -> None:
        loss = lbg.validation_loss(lbg.gam, lbg.experts, next(validation))
        found = list(torch.autograd.grad(loss, [*gam, *experts]))
        to_gam, to_experts = found[: len(gam)], found[len(gam) :]
        torch._foreach_mul_(to_experts, -lbg.experts_step)
        torch._foreach_add_(to_gam, list(mixed(experts_level, last[0], to_experts)))
        torch._foreach_mul_(to_gam, -lbg.gam_step)
        found = list(mixed(gam_level, last[0], to_gam))
        for parameter, gradient in zip(lbg.assignments.parameters(), found, strict=True):
            parameter.grad = gradient
        optimizers[2].step()
        optimizers[2].zero_grad()

    return Steps(lower=lower_steps, upper=upper_step, optimizer=optimizers[2])
