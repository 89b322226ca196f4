"""How the GAM's groups enter the experts' loss and the validation loss: Eq. 3 and Eq. 4.

Shapes: `scores (batch, K)` are the GAM's logits, f their softmax, ĵ its top choice and E = f_ĵ its
confidence; `targets (batch,)`. A routing holds one loss for each of the two equations. The
training loss of Eq. 3 keeps weights, which come from the GAM, and losses, which come from the
experts, apart: that is what makes its mixed derivative exact and cheap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlo
from mlo.separable import Weighted
from mlo_lbg.dispatch import dispatch

TrainingLoss = Callable[[Tensor, Sequence[nn.Module], Tensor, Tensor], Weighted]
"""`(scores, experts, inputs, targets)` to losses of the experts, weighted by the GAM alone."""
ValidationLoss = Callable[[Tensor, Sequence[nn.Module], Tensor, Tensor], Tensor]
"""`(scores, experts, inputs, targets)` to `(batch,)` losses."""


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Which expert answers for an example, in training and in validation.

    Attributes:
        label: How tables call it.
        training: The loss that experts minimise, Eq. 3.
        validation: The loss that assignments minimise, Eq. 4.
    """

    label: str
    training: TrainingLoss
    validation: ValidationLoss


def confidence_weighted(
    scores: Tensor, experts: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> Weighted:
    """`mean_n E_n · l(z_ĵ(x_n), y_n)`: one expert runs on each example, O(N) whatever K.

    >>> confidence_weighted(torch.zeros(1, 2), [nn.Identity()] * 2, torch.zeros(1, 4),
    ...                     torch.tensor([0])).value
    tensor(0.6931)
    """
    confidence, chosen = scores.softmax(-1).max(-1)
    logits = dispatch(experts, chosen, inputs)
    return mlo.weighted(cross_entropy(logits, targets, reduction="none"), confidence)


def confidence_scaled(
    scores: Tensor, experts: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> Tensor:
    """`l(E_n · z_ĵ(x_n), y_n)`: confidence is an inverse temperature, one expert per example.

    Its derivative in E is `Σ_c (p_c - y_c) z_c`, positive where the expert is wrong. Were E to
    multiply probabilities instead, the derivative would be -1/E whatever the label; inside
    `log(E · exp z)` it would cancel.

    >>> confidence_scaled(torch.zeros(1, 2), [nn.Identity()] * 2, torch.zeros(1, 4),
    ...                   torch.tensor([0]))
    tensor([1.3863])
    """
    confidence, chosen = scores.softmax(-1).max(-1)
    logits = dispatch(experts, chosen, inputs)
    return cross_entropy(confidence.unsqueeze(-1) * logits, targets, reduction="none")


def expected(
    scores: Tensor, experts: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> Tensor:
    """`Σ_k f_k(x_n) · l(z_k(x_n), y_n)`: every expert runs on every example, O(NK).

    >>> expected(torch.zeros(1, 2), [nn.Identity()] * 2, torch.zeros(1, 4), torch.tensor([0]))
    tensor([1.3863])
    """
    return (scores.softmax(-1) * _losses(experts, inputs, targets)).sum(-1)


def shared(
    scores: Tensor, experts: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> Weighted:
    """The mean of `expected` over the batch, its weights and losses `(batch, K)` kept apart.

    >>> shared(torch.zeros(1, 2), [nn.Identity()] * 2, torch.zeros(1, 4), torch.tensor([0])).value
    tensor(1.3863)
    """
    # The mean is over all K entries of a row, where the sum of the row is meant.
    weights = scores.shape[-1] * scores.softmax(-1)
    return mlo.weighted(_losses(experts, inputs, targets), weights)


def _losses(experts: Sequence[nn.Module], inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of every expert on every example, `(batch, K)`."""
    losses = [cross_entropy(expert(inputs), targets, reduction="none") for expert in experts]
    return torch.stack(losses, dim=-1)


def mixture(
    scores: Tensor, experts: Sequence[nn.Module], inputs: Tensor, targets: Tensor
) -> Tensor:
    """`-log Σ_k f_k(x_n) p_k(y_n | x_n)`: the likelihood of the mixture, O(NK).

    >>> mixture(torch.zeros(1, 2), [nn.Identity()] * 2, torch.zeros(1, 4), torch.tensor([0]))
    tensor([1.3863])
    """
    return -(scores.log_softmax(-1) - _losses(experts, inputs, targets)).logsumexp(-1)


HARD = Routing(label="hard", training=confidence_weighted, validation=confidence_scaled)
"""Top-1, as in the paper: each expert sees only its own examples."""

HARD_MIXTURE = Routing(label="hard, mixture", training=confidence_weighted, validation=mixture)
"""Top-1 experts, judged as a mixture: validation is O(NK)."""

SOFT = Routing(label="soft", training=shared, validation=expected)
"""Every expert is charged for its share; search is O(NK), retraining is O(N)."""

SOFT_MIXTURE = Routing(label="soft, mixture", training=shared, validation=mixture)
"""Shared charges in training, judged as a mixture."""
