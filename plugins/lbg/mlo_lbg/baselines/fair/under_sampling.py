"""One network on as many examples of every class with every attribute value."""

import torch
from torch import Tensor

from mlo_lbg.architecture import Architecture
from mlo_lbg.baselines.fair.cells import cell_sizes, cells
from mlo_lbg.baselines.single import single_network
from mlo_lbg.data.dataset import Examples
from mlo_lbg.predictors import OneNetwork
from mlo_lbg.seeds import spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation


def equal_cells(examples: Examples, *, seed: int) -> Tensor:
    """Random rows, `min n_ya` of every (class, attribute) cell: class and attribute independent.

    Cells without examples cannot be filled and are left out, of the minimum too.

    Args:
        examples: What is drawn from.
        seed: Decides which rows.

    Returns:
        `(selected,)` int64 row numbers in ascending order, on the device of the examples.

    >>> from mlo_lbg.data.dataset import Examples
    >>> seven = Examples(
    ...     inputs=torch.zeros(7, 1), targets=torch.tensor([0, 0, 0, 0, 1, 1, 1]),
    ...     attribute=torch.tensor([0, 0, 0, 1, 0, 1, 1]), num_classes=2, num_attributes=2,
    ... )
    >>> cell_sizes(seven.subset(equal_cells(seven, seed=0)))
    tensor([[1, 1],
            [1, 1]])
    """
    found = cells(examples).cpu()
    sizes = cell_sizes(examples).flatten().cpu()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator)
    by_cell = torch.split(order[torch.argsort(found[order], stable=True)], sizes.tolist())
    smallest = int(sizes[sizes > 0].min()) if len(examples) else 0
    taken = torch.cat([rows[:smallest] for rows in by_cell])
    return taken.sort().values.to(examples.targets.device)


def under_sampling(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    seed: int,
    trainer: Trainer = ALONE,
) -> OneNetwork:
    """Minimise the mean cross-entropy on `min n_ya` random examples of every (class, attribute).

    An epoch is a pass over the examples that are left, so there are fewer updates than without.

    Args:
        train: All training examples; the attribute decides which are left.
        architecture: `make_network` is built.
        optimisation: AdamW settings.
        seed: Decides the examples, initial weights and batches.
        trainer: How it is run.

    References:
        Kamiran and Calders (2012), Data preprocessing techniques for classification without
        discrimination, doi 10.1007/s10115-011-0463-8 (sampling).
    """
    drawing, training = spawn(seed, 2)
    left = train.subset(equal_cells(train, seed=drawing))
    return single_network(left, architecture, optimisation, seed=training, trainer=trainer)
