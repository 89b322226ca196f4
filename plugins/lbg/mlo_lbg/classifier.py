"""Training one network to classify."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlo_lbg.architecture import MakeModule
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation, fit


def train_classifier(
    train: Examples,
    make_network: MakeModule,
    optimisation: Optimisation,
    *,
    seed: int,
    trainer: Trainer = ALONE,
) -> nn.Module:
    """Minimise `mean_n −log softmax(network(x_n))[y_n]` of a fresh network.

    Args:
        train: Examples to learn from; the attribute is not used. Without any, the network stays as
            it was initialised.
        make_network: Inputs to `(batch, classes)` logits.
        optimisation: AdamW settings.
        seed: Decides initial weights, batches and dropout.
        trainer: How it is run.

    Returns:
        The network, in evaluation mode, on the device of the examples.

    >>> import torch
    >>> from mlo_lbg.models.perceptron import linear
    >>> points = Examples(
    ...     inputs=torch.tensor([[-1.0], [1.0]]), targets=torch.tensor([0, 1]),
    ...     attribute=torch.tensor([0, 0]), num_classes=2, num_attributes=1,
    ... )
    >>> network = train_classifier(points, lambda: linear(1, 2), Optimisation(), seed=0)
    >>> network(points.inputs).argmax(-1).tolist()
    [0, 1]
    """
    init, order = spawn(seed, 2)
    with seeded(init):
        network = make_network().to(train.inputs.device)
        if not len(train):
            return network.eval()

        def loss(_index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            return cross_entropy(network(inputs), targets)

        batches = Batches(train, size=optimisation.batch_size, seed=order)
        fit(network, loss, batches, optimisation, trainer=trainer)
    return network
