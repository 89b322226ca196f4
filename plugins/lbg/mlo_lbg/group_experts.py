"""One expert per given group: the second phase of grouping, whoever found the groups."""

from torch import Tensor, nn

from mlo.errors import MloError
from mlo_lbg.architecture import MakeModule
from mlo_lbg.classifier import train_classifier
from mlo_lbg.data.dataset import Examples
from mlo_lbg.seeds import spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation


class GroupError(MloError):
    """Groups do not fit the examples."""


def fit_experts(
    train: Examples,
    groups: Tensor,
    make_expert: MakeModule,
    optimisation: Optimisation,
    *,
    num_groups: int,
    seed: int,
    trainer: Trainer = ALONE,
) -> nn.ModuleList:
    """Minimise `mean_{n: g_n = k} −log p_k(y_n | x_n)` for each group k by itself.

    Each expert sees only its own examples, so together they cost as much as one network on all.
    The expert of an empty group stays as it was initialised.

    Args:
        train: All training examples; the attribute is not used.
        groups: `(examples,)` int64 in `0 .. num_groups - 1`.
        make_expert: Builds one expert, inputs to `(batch, classes)` logits.
        optimisation: AdamW settings of every expert.
        num_groups: Number of experts.
        seed: Decides initial weights and batches; an expert's do not depend on other groups.
        trainer: How it is run.

    Returns:
        `num_groups` experts in evaluation mode.

    Raises:
        GroupError: If the groups have the wrong length or range.

    >>> import torch
    >>> from mlo_lbg.models.perceptron import linear
    >>> points = Examples(
    ...     inputs=torch.tensor([[-1.0], [1.0]]), targets=torch.tensor([0, 1]),
    ...     attribute=torch.tensor([0, 0]), num_classes=2, num_attributes=1,
    ... )
    >>> experts = fit_experts(
    ...     points, torch.tensor([0, 0]), lambda: linear(1, 2), Optimisation(), num_groups=2, seed=0
    ... )
    >>> len(experts)
    2
    """
    if groups.shape != (len(train),):
        raise GroupError(f"groups: expected shape ({len(train)},), got {tuple(groups.shape)}")
    if len(groups) and (groups.min() < 0 or groups.max() >= num_groups):
        raise GroupError(
            f"groups: expected values in 0..{num_groups - 1}, "
            f"got {int(groups.min())}..{int(groups.max())}"
        )
    return nn.ModuleList(
        train_classifier(
            train.subset(groups == group),
            make_expert,
            optimisation,
            seed=expert_seed,
            trainer=trainer.within(f"expert-{group}"),
        )
        for group, expert_seed in enumerate(spawn(seed, num_groups))
    )
