"""Experts for groups that were not learned: clusters of the inputs, or the true attribute."""

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from mlo_lbg.architecture import Architecture
from mlo_lbg.data.dataset import Examples
from mlo_lbg.group_experts import fit_experts
from mlo_lbg.predictors import ByAttribute, TopOne
from mlo_lbg.seeds import spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation


class NearestCentre(nn.Module):
    """Scores `2 c_k · x − |c_k|²`: the largest belongs to the centre nearest to x.

    Args:
        centres: `(K, features)`, kept as a frozen parameter, so that they count in the size.

    >>> gate = NearestCentre(torch.tensor([[0.0], [4.0]]))
    >>> gate(torch.tensor([[1.0], [3.0]])).argmax(-1).tolist()
    [0, 1]
    """

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        self.centres = nn.Parameter(centres, requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """`(batch, ...)` inputs to `(batch, K)` scores."""
        return 2 * inputs.flatten(1) @ self.centres.T - self.centres.square().sum(-1)


def kmeans_groups(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    restarts: int = 10,
    seed: int,
    trainer: Trainer = ALONE,
) -> TopOne:
    """Groups are k-means clusters of the flattened inputs; one expert is trained on each.

    Args:
        train: All training examples; neither targets nor attribute decide the groups.
        architecture: `num_groups` times `make_expert` is built.
        optimisation: AdamW settings of every expert.
        restarts: Runs of k-means, of which the tightest is kept.
        seed: Decides clusters, initial weights and batches.
        trainer: How it is run.
    """
    clustering, training = spawn(seed, 2)
    clusters = KMeans(architecture.num_groups, n_init=restarts, random_state=clustering)
    clusters.fit(train.inputs.flatten(1).cpu().numpy())
    centres = torch.as_tensor(clusters.cluster_centers_, dtype=train.inputs.dtype)
    gate = NearestCentre(centres).to(train.inputs.device).eval()
    experts = fit_experts(
        train,
        gate(train.inputs).argmax(-1),
        architecture.make_expert,
        optimisation,
        num_groups=architecture.num_groups,
        seed=training,
        trainer=trainer,
    )
    return TopOne(gate=gate, experts=list(experts))


def attribute_groups(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    seed: int,
    trainer: Trainer = ALONE,
) -> ByAttribute:
    """Groups are the true attribute; one expert is trained on each value.

    A ceiling: the attribute is used in training *and* at test, where other methods do not have it.

    Args:
        train: All training examples.
        architecture: `make_expert` is built once per attribute value.
        optimisation: AdamW settings of every expert.
        seed: Decides initial weights and batches.
        trainer: How it is run.
    """
    experts = fit_experts(
        train,
        train.attribute,
        architecture.make_expert,
        optimisation,
        num_groups=train.num_attributes,
        seed=seed,
        trainer=trainer,
    )
    return ByAttribute(experts=list(experts))
