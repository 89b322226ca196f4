"""One network on all examples."""

from mlo_lbg.architecture import Architecture
from mlo_lbg.classifier import train_classifier
from mlo_lbg.data.dataset import Examples
from mlo_lbg.predictors import OneNetwork
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation


def single_network(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    seed: int,
    trainer: Trainer = ALONE,
) -> OneNetwork:
    """Minimise the mean cross-entropy of one network that has the whole parameter budget.

    Args:
        train: All training examples; the attribute is not used.
        architecture: `make_network` is built.
        optimisation: AdamW settings.
        seed: Decides initial weights and batches.
        trainer: How it is run.
    """
    network = train_classifier(
        train, architecture.make_network, optimisation, seed=seed, trainer=trainer
    )
    return OneNetwork(network=network)
