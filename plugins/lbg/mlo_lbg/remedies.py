"""What keeps a search from sending everything to one group.

A remedy acts beside the three problems: it has no gradient. The term of the upper objective that
does the same by a gradient is `uneven`, weighted by `SearchSettings.upper_balance`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mlo_lbg.assignments import Assignments, ClippedAssignments
from mlo_lbg.evaluating import evaluating

Rows = Assignments | ClippedAssignments
Act = Callable[[nn.Module, Rows, Tensor], None]
"""`(gam, assignments, (examples, ...) training inputs)`, changed in place."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Something done after every so many rounds of a search.

    Attributes:
        act: What is done.
        every: Rounds from one time to the next.
        wrap: What the GAM is wrapped in before the search.
    """

    act: Act
    every: int
    wrap: Callable[[nn.Module, int], nn.Module] = lambda gam, _groups: gam


@torch.no_grad()
def normalise_columns(_gam: nn.Module, assignments: Rows, _inputs: Tensor) -> None:
    """`L ← L − log(K · mean_n softmax(L))` three times: every group gets about N/K of the mass.

    Clipped rows are no logits and stay as they are.

    >>> rows = Assignments(num_examples=4, num_groups=2)
    >>> with torch.no_grad():
    ...     _ = rows.logits.weight[:, 0].add_(3.0)
    >>> normalise_columns(nn.Identity(), rows, torch.empty(0))
    >>> bool((rows.all_rows().mean(0) - 0.5).abs().max() < 0.01)
    True
    """
    if isinstance(assignments, ClippedAssignments):
        return
    logits = assignments.logits.weight
    for _ in range(3):
        logits -= (logits.shape[-1] * logits.softmax(-1).mean(0)).log()


@torch.no_grad()
def centre_columns(_gam: nn.Module, assignments: Rows, _inputs: Tensor) -> None:
    """`L ← L − mean_n L`: no group is preferred by all rows at once.

    >>> rows = Assignments(num_examples=4, num_groups=2)
    >>> centre_columns(nn.Identity(), rows, torch.empty(0))
    >>> bool(rows.logits.weight.mean(0).abs().max() < 1e-6)
    True
    """
    if isinstance(assignments, ClippedAssignments):
        return
    logits = assignments.logits.weight
    logits -= logits.mean(0)


class BiasedGate(nn.Module):
    """`scores(x) + b` with a bias b that no gradient moves.

    Args:
        gate: Inputs to `(batch, K)` scores.
        num_groups: K.

    References:
        Wang et al. (2024), Auxiliary-loss-free load balancing strategy for mixture-of-experts,
        arXiv 2408.15664, where b takes part in choosing only; here f is computed from the biased
        scores, so that training and choosing see one distribution.

    >>> BiasedGate(nn.Identity(), 2)(torch.zeros(1, 2))
    tensor([[0., 0.]])
    """

    bias: Tensor

    def __init__(self, gate: nn.Module, num_groups: int) -> None:
        super().__init__()
        self.gate = gate
        self.register_buffer("bias", torch.zeros(num_groups))

    def forward(self, inputs: Tensor) -> Tensor:
        """`(batch, ...)` inputs to `(batch, K)` scores."""
        scores: Tensor = self.gate(inputs)
        return scores + self.bias


@torch.no_grad()
def balance_bias(gam: nn.Module, _rows: Rows, inputs: Tensor, *, rate: float, sample: int) -> None:
    """`b_k ← b_k + rate · sign(1/K − share of group k)` on up to `sample` of the inputs.

    >>> gate = BiasedGate(nn.Identity(), 2)
    >>> rows = Assignments(num_examples=2, num_groups=2)
    >>> balance_bias(gate, rows, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), rate=0.5, sample=2)
    >>> gate.bias
    tensor([-0.5000,  0.5000])
    """
    assert isinstance(gam, BiasedGate)
    stride = max(1, len(inputs) // sample)
    with evaluating(gam):
        chosen = gam(inputs[::stride]).argmax(-1)
    groups = gam.bias.shape[0]
    # No bincount: it waits for an accelerator.
    shares = nn.functional.one_hot(chosen, groups).to(gam.bias.dtype).mean(0)
    gam.bias += rate * torch.sign(1 / groups - shares)


def normalised(*, every: int = 5) -> Remedy:
    """Return `normalise_columns` as a remedy."""
    return Remedy(act=normalise_columns, every=every)


def centred(*, every: int = 5) -> Remedy:
    """Return `centre_columns` as a remedy."""
    return Remedy(act=centre_columns, every=every)


def router_bias(*, rate: float = 0.02, every: int = 5, sample: int = 1024) -> Remedy:
    """Return `balance_bias` as a remedy, and the gate that has the bias."""
    return Remedy(act=partial(balance_bias, rate=rate, sample=sample), every=every, wrap=BiasedGate)


def uneven(scores: Tensor) -> Tensor:
    """`Σ_k π_k log(K π_k)` with `π = mean_n f(x_n)`: how far the mean choice is from uniform.

    0 where all groups have equal mass, log K where one has all.

    Args:
        scores: `(batch, K)` logits of the GAM.

    >>> uneven(torch.zeros(3, 4)).item()
    0.0
    """
    mean = scores.softmax(-1).mean(0)
    kept = mean.clamp_min(torch.finfo(mean.dtype).tiny)
    return (mean * (kept * scores.shape[-1]).log()).sum()
