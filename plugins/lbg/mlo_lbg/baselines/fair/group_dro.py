"""One network whose worst (class, attribute) cell counts most."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlo_lbg.architecture import Architecture
from mlo_lbg.baselines.fair.cells import cell_sizes, cells
from mlo_lbg.baselines.fair.drawn import Drawn
from mlo_lbg.baselines.fair.errors import FairBaselineError
from mlo_lbg.baselines.fair.reweighting import balanced
from mlo_lbg.data.dataset import Examples
from mlo_lbg.predictors import OneNetwork
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation, fit


class RobustNetwork(nn.Module):
    """`q_g ← q_g exp(η (ℓ_g + C / √n_g)) / Z`, loss `Σ q_g ℓ_g`: a network and weights of cells.

    q lies in a buffer, so that a checkpoint of the module holds it. A cell that a batch lacks has
    loss 0 there; one without any example has q = 0.

    Args:
        network: Inputs to `(batch, classes)` logits.
        sizes: `(cells,)` training examples n_g in each cell.
        step: Step size η of q.
        adjustment: C, larger for a stronger pull towards small cells.

    >>> robust = RobustNetwork(nn.Identity(), torch.tensor([5, 5]), step=1.0, adjustment=0.0)
    >>> robust.robust_loss(torch.tensor([3.0, 0.0]), torch.tensor([0, 1]))
    tensor(2.8577)
    >>> robust.cell_weights
    tensor([0.9526, 0.0474])
    """

    log_weights: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, sizes: Tensor, *, step: float, adjustment: float
    ) -> None:
        super().__init__()
        self.network = network
        self.step = step
        empty = torch.where(sizes > 0, 0.0, -math.inf)
        self.register_buffer("log_weights", empty.log_softmax(0))
        self.register_buffer("shift", adjustment / sizes.clamp(min=1).sqrt())

    @property
    def cell_weights(self) -> Tensor:
        """`(cells,)` weights q, which sum to 1."""
        return self.log_weights.exp()

    def robust_loss(self, losses: Tensor, cell: Tensor) -> Tensor:
        """Update q by the mean losses of the cells, and return their mean under the new q.

        Args:
            losses: `(batch,)` losses of the examples.
            cell: `(batch,)` int64 cell of each.

        Returns:
            A scalar.
        """
        cells = torch.arange(len(self.log_weights), device=cell.device)
        member = (cell == cells.unsqueeze(-1)).to(losses.dtype)
        present = member.sum(-1)
        mean = (member @ losses) / present.clamp(min=1)
        with torch.no_grad():
            gain = torch.where(present > 0, mean + self.shift, 0.0)
            self.log_weights.copy_((self.log_weights + self.step * gain).log_softmax(0))
        return (self.cell_weights * mean).sum()


def group_dro(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    step: float = 0.01,
    adjustment: float = 0.0,
    seed: int,
    trainer: Trainer = ALONE,
) -> OneNetwork:
    """Minimise `max_g E_{n in cell g} −log p(y_n | x_n)` by exponentiated gradient on the cells.

    As in the authors' algorithm every cell is drawn with the same probability, whatever its size.
    A strong `weight_decay` is part of the method where the network can fit all examples.

    Args:
        train: All training examples; the attribute forms the cells.
        architecture: `make_network` is built.
        optimisation: AdamW settings; an epoch draws as many examples as there are.
        step: Step size η of the weights of the cells, above 0.
        adjustment: C of the term `C / √n_g`, 0 or more.
        seed: Decides initial weights and batches.
        trainer: How it is run.

    Raises:
        FairBaselineError: If `step` or `adjustment` is out of range.

    References:
        Sagawa, Koh, Hashimoto and Liang (2020), Distributionally robust neural networks for group
        shifts, arXiv 1911.08731.
    """
    if not 0 < step < math.inf:
        raise FairBaselineError(f"step: expected a positive number, got {step}")
    if not 0 <= adjustment < math.inf:
        raise FairBaselineError(f"adjustment: expected 0 or more, got {adjustment}")
    init, order = spawn(seed, 2)
    cell = cells(train)
    with seeded(init):
        robust = RobustNetwork(
            architecture.make_network(),
            cell_sizes(train).flatten().cpu(),
            step=step,
            adjustment=adjustment,
        ).to(train.inputs.device)

        def loss(index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            losses = cross_entropy(robust.network(inputs), targets, reduction="none")
            return robust.robust_loss(losses, cell[index])

        batches = Drawn(train, balanced(train), size=optimisation.batch_size, seed=order)
        fit(robust, loss, batches, optimisation, trainer=trainer)
    return OneNetwork(network=robust.network)
