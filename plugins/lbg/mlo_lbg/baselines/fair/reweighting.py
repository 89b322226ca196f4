"""One network on examples weighted so that class and attribute look independent."""

from collections.abc import Callable

from torch import Tensor

from mlo_lbg.architecture import Architecture
from mlo_lbg.baselines.fair.cells import cell_sizes, cells
from mlo_lbg.baselines.fair.weighted import train_weighted
from mlo_lbg.data.dataset import Examples
from mlo_lbg.predictors import OneNetwork
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation

Weighting = Callable[[Examples], Tensor]
"""Examples to `(examples,)` float64 weights."""


def independent(examples: Examples) -> Tensor:
    """`w_n = P(a_n) P(y_n) / P(a_n, y_n)`: under these weights class and attribute are independent.

    Both keep their own distribution. The mean weight is 1 if every cell has examples.

    Returns:
        `(examples,)` float64 weights.

    References:
        Kamiran and Calders (2012), Data preprocessing techniques for classification without
        discrimination, doi 10.1007/s10115-011-0463-8 (reweighing).

    >>> import torch
    >>> four = Examples(
    ...     inputs=torch.zeros(4, 1), targets=torch.tensor([0, 0, 0, 1]),
    ...     attribute=torch.tensor([0, 0, 1, 0]), num_classes=2, num_attributes=2,
    ... )
    >>> independent(four)
    tensor([1.1250, 1.1250, 0.7500, 0.7500], dtype=torch.float64)
    """
    sizes = cell_sizes(examples).double()
    expected = sizes.sum(1, keepdim=True) * sizes.sum(0, keepdim=True) / sizes.sum()
    # Cells without examples are never looked up.
    return (expected / sizes.clamp(min=1)).flatten()[cells(examples)]


def balanced(examples: Examples) -> Tensor:
    """`w_n = N / (cells · n_{a,y})`: every (class, attribute) cell has the same total weight.

    Cells without examples do not count. The mean weight is 1.

    Returns:
        `(examples,)` float64 weights.

    >>> import torch
    >>> four = Examples(
    ...     inputs=torch.zeros(4, 1), targets=torch.tensor([0, 0, 0, 1]),
    ...     attribute=torch.tensor([0, 0, 1, 0]), num_classes=2, num_attributes=2,
    ... )
    >>> balanced(four)
    tensor([0.6667, 0.6667, 1.3333, 1.3333], dtype=torch.float64)
    """
    sizes = cell_sizes(examples).double()
    return (sizes.sum() / ((sizes > 0).sum() * sizes.clamp(min=1))).flatten()[cells(examples)]


def reweighting(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    weighting: Weighting = independent,
    seed: int,
    trainer: Trainer = ALONE,
) -> OneNetwork:
    """Minimise `mean_n −w_n log p(y_n | x_n)` with weights by class and attribute.

    Args:
        train: All training examples; the attribute decides the weights.
        architecture: `make_network` is built.
        optimisation: AdamW settings.
        weighting: `independent` or `balanced`.
        seed: Decides initial weights and batches.
        trainer: How it is run.

    References:
        Kamiran and Calders (2012), Data preprocessing techniques for classification without
        discrimination, doi 10.1007/s10115-011-0463-8 (reweighing).
    """
    network = train_weighted(
        train,
        weighting(train),
        architecture.make_network,
        optimisation,
        seed=seed,
        trainer=trainer,
    )
    return OneNetwork(network=network)
