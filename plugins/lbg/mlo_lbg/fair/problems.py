"""LBG with a fair outermost problem: offsets of groups as further upper variables.

    T*(C), S*(T*)  as in `mlo_lbg.problems`, which never see the attribute
    min_b  O(T*, S*, b)       offsets of each group's logits
    min_C  O(T*, S*, b)       the same objective, so that at its minimum over b dO/db = 0

    O = objective(log Σ_k f_k(x) softmax(z_k(x) + b_k), y, a) − balance · H(mean_x f(x))

As b minimises what C minimises, its response adds nothing (envelope theorem): it is constant.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import mlo
from mlo_lbg.data.batches import Batch
from mlo_lbg.fair.batches import FairBatch
from mlo_lbg.fair.objectives import Objective
from mlo_lbg.problems import Modules, SearchSettings, three_levels


@dataclass(frozen=True, kw_only=True)
class FairSettings:
    """What the outermost problem seeks.

    Attributes:
        objective: Of mixture log-probabilities, targets and attribute of validation examples.
        balance: Weight of the entropy of the mean group probabilities; 0 for none. Without it
            groups collapse to one on tables.
        offsets_learning_rate: Of Adam for the offsets.
    """

    objective: Objective
    balance: float = 0.5
    offsets_learning_rate: float = 0.05


class Offsets(nn.Module):
    """`b`, `(groups, classes)`, 0 at first.

    >>> Offsets(num_groups=2, num_classes=3)().shape
    torch.Size([2, 3])
    """

    def __init__(self, *, num_groups: int, num_classes: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(num_groups, num_classes))

    def forward(self) -> Tensor:
        """Return all offsets."""
        return self.values


def mixture_log_probabilities(scores: Tensor, logits: Tensor, offsets: Tensor) -> Tensor:
    """`log Σ_k f_k softmax(z_k + b_k)`.

    Args:
        scores: `(batch, groups)` logits of the GAM.
        logits: `(batch, groups, classes)` of the experts.
        offsets: `(groups, classes)`.

    Returns:
        `(batch, classes)`.

    >>> mixture_log_probabilities(torch.zeros(1, 2), torch.zeros(1, 2, 2), torch.zeros(2, 2))
    tensor([[-0.6931, -0.6931]])
    """
    parts = (logits + offsets).log_softmax(-1) + scores.log_softmax(-1).unsqueeze(-1)
    mixture: Tensor = parts.logsumexp(1)
    return mixture


def fair_levels(
    modules: Modules,
    offsets: Offsets,
    settings: SearchSettings,
    fair: FairSettings,
    *,
    gam_batches: Iterable[Batch],
    expert_batches: Iterable[Batch],
    offset_batches: Iterable[FairBatch],
    validation_batches: Iterable[FairBatch],
) -> mlo.Graph:
    """Declare GAM -> experts -> offsets -> assignments; the last two see the attribute.

    Args:
        modules: What is trained, with `offsets`.
        offsets: Likewise.
        settings: How the lower levels and C are optimised; its validation routing is not used, as
            the objective is that of the mixture.
        fair: What the outermost problem seeks.
        gam_batches: Training examples with their row numbers in C.
        expert_batches: Training examples.
        offset_batches: Validation examples.
        validation_batches: Validation examples.
    """

    def objective(
        gam: nn.Module, experts: nn.ModuleList, offsets: nn.Module, batch: FairBatch
    ) -> Tensor:
        _, inputs, targets, attribute = batch
        scores = gam(inputs)
        logits = torch.stack([expert(inputs) for expert in experts], dim=1)
        mixture = mixture_log_probabilities(scores, logits, offsets())
        mean = scores.softmax(-1).mean(0)
        entropy = torch.special.entr(mean).sum()
        loss: Tensor = fair.objective(mixture, targets, attribute) - fair.balance * entropy
        return loss

    plain = three_levels(
        modules,
        settings,
        gam_batches=gam_batches,
        expert_batches=expert_batches,
        validation_batches=gam_batches,
    )
    return mlo.Graph(
        plain.problem("gam"),
        plain.problem("experts"),
        mlo.Problem(
            name="offsets",
            module=offsets,
            loss=objective,
            batches=offset_batches,
            optimizer=lambda p: torch.optim.Adam(p, lr=fair.offsets_learning_rate),
            response=mlo.constant(),
        ),
        mlo.Problem(
            name="assignments",
            module=modules.assignments,
            loss=objective,
            batches=validation_batches,
            optimizer=lambda p: torch.optim.SparseAdam(
                p, lr=settings.assignments_learning_rate, betas=(0.9, 0.99)
            ),
        ),
    )
