"""Just train twice: the examples that a short training gets wrong count more in the next."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mlo_lbg.architecture import Architecture
from mlo_lbg.baselines.fair.drawn import Drawn
from mlo_lbg.baselines.fair.errors import FairBaselineError
from mlo_lbg.baselines.single import single_network
from mlo_lbg.data.dataset import Examples
from mlo_lbg.predictors import OneNetwork, Predictor
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation, fit


def error_weights(predictor: Predictor, examples: Examples, *, upweight: float) -> Tensor:
    """`w_n = λ` where the predicted class is wrong, and 1 elsewhere.

    Args:
        predictor: Predicts the classes.
        examples: Examples with their true classes; the attribute is not used.
        upweight: λ.

    Returns:
        `(examples,)` float64 weights.

    >>> from torch import nn
    >>> pair = Examples(
    ...     inputs=torch.eye(2), targets=torch.tensor([0, 0]), attribute=torch.tensor([0, 0]),
    ...     num_classes=2, num_attributes=1,
    ... )
    >>> error_weights(OneNetwork(network=nn.Identity()), pair, upweight=5.0)
    tensor([1., 5.], dtype=torch.float64)
    """
    wrong = predictor.predict(examples.inputs) != examples.targets
    ones = torch.ones(len(examples), dtype=torch.float64, device=wrong.device)
    return torch.where(wrong, upweight, ones)


def jtt(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    first_epochs: int,
    upweight: float,
    seed: int,
    trainer: Trainer = ALONE,
) -> OneNetwork:
    """Minimise `Σ_{n wrong} λ ℓ_n + Σ_{n right} ℓ_n`, wrong after T epochs of plain training.

    As with the authors the weights are how often an example is drawn, not factors of its loss; an
    epoch draws as many examples as there are, not λ times as many.

    Args:
        train: All training examples; the attribute is not used.
        architecture: `make_network` is built twice; the first one is thrown away.
        optimisation: AdamW settings of both trainings.
        first_epochs: T, epochs of the first training.
        upweight: λ, at least 1.
        seed: Decides initial weights and batches of both trainings.
        trainer: How they are run.

    Raises:
        FairBaselineError: If `upweight` is out of range.
        TrainingError: If `first_epochs` is below 1.

    References:
        Liu et al. (2021), Just train twice: improving group robustness without training group
        information, arXiv 2107.09044.
    """
    if not 1 <= upweight < math.inf:
        raise FairBaselineError(f"upweight: expected a finite number of 1 or more, got {upweight}")
    identifying, training = spawn(seed, 2)
    first = single_network(
        train,
        architecture,
        replace(optimisation, epochs=first_epochs),
        seed=identifying,
        trainer=trainer.within("first"),
    )
    weights = error_weights(first, train, upweight=upweight)
    init, order = spawn(training, 2)
    with seeded(init):
        network = architecture.make_network().to(train.inputs.device)

        def loss(_index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            return cross_entropy(network(inputs), targets)

        batches = Drawn(train, weights, size=optimisation.batch_size, seed=order)
        fit(network, loss, batches, optimisation, trainer=trainer.within("second"))
    return OneNetwork(network=network)
