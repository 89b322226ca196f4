"""What the outermost problem minimises when fairness is sought: differentiable, by minibatch.

Shapes: `logits (batch, classes)`, log-probabilities of a mixture included; `targets` and
`attribute (batch,)` int64. Soft predictions are `softmax(logits / temperature)`, which become the
hard ones as the temperature goes to 0. Class c against the rest; with two classes, class 1 alone.
A rate that a batch has no example for counts as no gap.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import one_hot

from mlo.errors import MloError

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(logits, targets, attribute)` to a scalar."""
Gaps = Callable[..., Tensor]
"""`(logits, targets, attribute, *, temperature)` to signed gaps of any shape."""


class ObjectiveError(MloError):
    """An objective has a setting out of range."""


def cross_entropy(logits: Tensor, targets: Tensor, _attribute: Tensor) -> Tensor:
    """`mean_n −log p(y_n | x_n)`: no fairness is sought.

    >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0]))
    tensor(0.6931)
    """
    return functional.cross_entropy(logits, targets)


def group_dro(
    logits: Tensor, targets: Tensor, attribute: Tensor, *, sharpness: float = 10.0
) -> Tensor:
    """`(1/η) log mean_a exp(η L_a)` with `L_a` the mean loss at attribute value a.

    Its gradient weighs value a by `exp(η L_a)`, the exponentiated-gradient weights of one batch;
    with η to infinity it is the worst value's loss, with η to 0 the mean over values.

    Args:
        logits: `(batch, classes)`.
        targets: `(batch,)`.
        attribute: `(batch,)`; values absent from the batch do not count.
        sharpness: η, above 0.

    Raises:
        ObjectiveError: If the sharpness is not positive.

    References:
        Sagawa et al. (2020), Distributionally robust neural networks, arXiv 1911.08731.

    >>> codes = torch.tensor([0, 1])
    >>> group_dro(torch.zeros(2, 2), codes, codes)
    tensor(0.6931)
    """
    if not 0 < sharpness < float("inf"):
        raise ObjectiveError(f"sharpness: expected a positive number, got {sharpness}")
    losses = functional.cross_entropy(logits, targets, reduction="none")
    member = one_hot(attribute).to(losses.dtype)
    count = member.sum(0)
    mean = (losses @ member) / count.clamp_min(1)
    # -inf, not a smaller set: a shape that depends on data would wait for an accelerator.
    exponents = torch.where(count > 0, sharpness * mean, -torch.inf)
    return (exponents.logsumexp(0) - (count > 0).sum().log()) / sharpness


def odds_gaps(
    logits: Tensor, targets: Tensor, attribute: Tensor, *, temperature: float = 0.4
) -> Tensor:
    """`(2, pairs of attribute values, classes)` signed soft ΔFPR and ΔTPR, earlier minus later.

    >>> certain = torch.tensor([[0.0, 9.0], [9.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
    >>> gaps = odds_gaps(certain, torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1]))
    >>> gaps.flatten().round(decimals=3).tolist()
    [0.0, 1.0]
    """
    soft = _soft(logits, temperature)
    positive = one_hot(targets, logits.shape[-1]).to(logits.dtype)[:, -soft.shape[-1] :]
    return torch.stack([_differences(soft, given, attribute) for given in (1 - positive, positive)])


def selection_gaps(
    logits: Tensor, _targets: Tensor, attribute: Tensor, *, temperature: float = 0.4
) -> Tensor:
    """`(pairs of attribute values, classes)` signed soft ΔSR, earlier minus later.

    >>> certain = torch.tensor([[0.0, 9.0], [9.0, 0.0]])
    >>> selection_gaps(certain, torch.tensor([1, 0]), torch.tensor([0, 1])).round(decimals=3)
    tensor([[1.]])
    """
    soft = _soft(logits, temperature)
    return _differences(soft, torch.ones_like(soft), attribute)


def equalized_odds(
    logits: Tensor, targets: Tensor, attribute: Tensor, *, temperature: float = 0.4
) -> Tensor:
    """`Σ ΔTPR² + ΔFPR²` of soft predictions over pairs of attribute values, mean over classes.

    >>> equalized_odds(torch.zeros(2, 2), torch.tensor([1, 1]), torch.tensor([0, 1]))
    tensor(0.)
    """
    return odds_gaps(logits, targets, attribute, temperature=temperature).square().mean(-1).sum()


def demographic_parity(
    logits: Tensor, targets: Tensor, attribute: Tensor, *, temperature: float = 0.4
) -> Tensor:
    """`Σ ΔSR²` of soft predictions over pairs of attribute values, mean over classes.

    >>> demographic_parity(torch.zeros(2, 2), torch.tensor([1, 1]), torch.tensor([0, 1]))
    tensor(0.)
    """
    gaps = selection_gaps(logits, targets, attribute, temperature=temperature)
    return gaps.square().mean(-1).sum()


def penalised(gap: Objective, *, weight: float) -> Objective:
    """`cross_entropy + weight · gap`.

    Args:
        gap: `equalized_odds`, `demographic_parity` or one's own.
        weight: 0 or more.

    Raises:
        ObjectiveError: If the weight is negative or not finite.

    >>> from functools import partial
    >>> objective = penalised(partial(equalized_odds, temperature=0.1), weight=3.0)
    >>> objective(torch.zeros(2, 2), torch.tensor([1, 1]), torch.tensor([0, 1]))
    tensor(0.6931)
    """
    if not 0 <= weight < float("inf"):
        raise ObjectiveError(f"weight: expected 0 or more, got {weight}")

    def objective(logits: Tensor, targets: Tensor, attribute: Tensor) -> Tensor:
        loss = cross_entropy(logits, targets, attribute)
        return loss + weight * gap(logits, targets, attribute)

    return objective


def _soft(logits: Tensor, temperature: float) -> Tensor:
    if not 0 < temperature < float("inf"):
        raise ObjectiveError(f"temperature: expected a positive number, got {temperature}")
    soft = (logits / temperature).softmax(-1)
    # With two classes the other class only mirrors the positive one.
    return soft[:, 1:] if soft.shape[-1] == 2 else soft


def _differences(soft: Tensor, given: Tensor, attribute: Tensor) -> Tensor:
    """Pairwise differences of the mean of `soft` over the examples of each attribute value."""
    member = one_hot(attribute).to(soft.dtype)
    count = member.T @ given
    rates = (member.T @ (given * soft)) / count.clamp_min(1)
    first, second = torch.triu_indices(len(rates), len(rates), offset=1, device=soft.device)
    known = (count[first] > 0) & (count[second] > 0)
    return torch.where(known, rates[first] - rates[second], 0.0)
