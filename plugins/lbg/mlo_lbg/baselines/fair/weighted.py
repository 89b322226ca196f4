"""Training one network on examples that do not count alike."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlo_lbg.architecture import MakeModule
from mlo_lbg.baselines.fair.errors import FairBaselineError
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation, fit


def train_weighted(
    train: Examples,
    weights: Tensor,
    make_network: MakeModule,
    optimisation: Optimisation,
    *,
    seed: int,
    trainer: Trainer = ALONE,
) -> nn.Module:
    """Minimise `mean_n −w_n log softmax(network(x_n))[y_n]` of a fresh network.

    With all weights 1 it is `train_classifier`, bit for bit at the same seed.

    Args:
        train: Examples to learn from; the attribute is not used.
        weights: `(examples,)` weights of 0 or more, on the device of the examples.
        make_network: Inputs to `(batch, classes)` logits.
        optimisation: AdamW settings.
        seed: Decides initial weights, batches and dropout.
        trainer: How it is run.

    Returns:
        The network, in evaluation mode, on the device of the examples.

    Raises:
        FairBaselineError: If there is not one finite weight of 0 or more for each example.

    >>> import torch
    >>> from mlo_lbg.models.perceptron import linear
    >>> contradiction = Examples(
    ...     inputs=torch.ones(2, 1), targets=torch.tensor([0, 1]), attribute=torch.tensor([0, 0]),
    ...     num_classes=2, num_attributes=1,
    ... )
    >>> network = train_weighted(
    ...     contradiction, torch.tensor([0.5, 1.5]), lambda: linear(1, 2), Optimisation(), seed=0
    ... )
    >>> network(contradiction.inputs).argmax(-1).tolist()
    [1, 1]
    """
    if weights.shape != (len(train),):
        raise FairBaselineError(
            f"weights: expected shape ({len(train)},), got {tuple(weights.shape)}"
        )
    if not (weights.isfinite() & (weights >= 0)).all():
        raise FairBaselineError("weights: expected finite numbers of 0 or more, got others")
    init, order = spawn(seed, 2)
    weights = weights.to(device=train.inputs.device)
    with seeded(init):
        network = make_network().to(train.inputs.device)

        def loss(index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            losses = cross_entropy(network(inputs), targets, reduction="none")
            return (weights[index].to(losses.dtype) * losses).mean()

        batches = Batches(train, size=optimisation.batch_size, seed=order)
        fit(network, loss, batches, optimisation, trainer=trainer)
    return network
