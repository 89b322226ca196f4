"""One network with a fairness penalty: what grouping for fairness has to beat."""

import torch
from torch import Tensor, nn

from mlo.errors import MloError
from mlo_lbg.architecture import Architecture
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples
from mlo_lbg.fair.objectives import Gaps, cross_entropy, odds_gaps
from mlo_lbg.predictors import OneNetwork
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation, fit


class PenaltyError(MloError):
    """A penalty has a setting out of range."""


class _WithMultipliers(nn.Module):
    """A network and the multipliers of its constraints, saved together."""

    multipliers: Tensor

    def __init__(self, network: nn.Module, multipliers: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("multipliers", multipliers)


def penalised_network(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    weight: float,
    dual_rate: float = 0.0,
    temperature: float = 0.4,
    gaps: Gaps = odds_gaps,
    seed: int,
    trainer: Trainer = ALONE,
) -> OneNetwork:
    """Minimise `cross-entropy + weight · Σ gaps² + λ · gaps` with `λ += dual_rate · gaps` a batch.

    Gaps are signed and taken on each batch, so batches should be large (1024 on Adult). Reads the
    attribute of training examples; prediction does not.

    Args:
        train: All training examples.
        architecture: `make_network` is built.
        optimisation: AdamW settings.
        weight: Of the squared gaps, 0 or more.
        dual_rate: Step of the multipliers, 0 for none.
        temperature: Of the soft predictions.
        gaps: `odds_gaps` or `selection_gaps`.
        seed: Decides initial weights and batches.
        trainer: How it is run.

    Raises:
        PenaltyError: If the weight or the dual rate is negative or not finite.
    """
    for name, value in (("weight", weight), ("dual_rate", dual_rate)):
        if not 0 <= value < float("inf"):
            raise PenaltyError(f"{name}: expected 0 or more, got {value}")
    init, order = spawn(seed, 2)
    with seeded(init):
        network = architecture.make_network().to(train.inputs.device)
        # All values of the attribute are here, so the shape is that of every batch's gaps.
        classes = 1 if train.num_classes == 2 else train.num_classes
        pairs = train.num_attributes * (train.num_attributes - 1) // 2
        shape = (2, pairs, classes) if gaps is odds_gaps else (pairs, classes)
        module = _WithMultipliers(network, torch.zeros(shape, device=train.inputs.device))

        def loss(index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            attribute = train.attribute[index]
            logits = network(inputs)
            gap = gaps(logits, targets, attribute, temperature=temperature)
            penalty = weight * gap.square().sum() + (module.multipliers.clone() * gap).sum()
            with torch.no_grad():
                module.multipliers += dual_rate * gap
            return cross_entropy(logits, targets, attribute) + penalty

        batches = Batches(train, size=optimisation.batch_size, seed=order)
        fit(module, loss, batches, optimisation, trainer=trainer)
    return OneNetwork(network=network)
