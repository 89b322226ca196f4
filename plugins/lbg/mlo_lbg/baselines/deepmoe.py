"""Every hidden channel is an expert, switched by a shallow embedding of the input."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlo_lbg.architecture import Architecture
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples
from mlo_lbg.models.gated import GatedAnswer, GatedNetwork
from mlo_lbg.models.normalised import Normalised
from mlo_lbg.models.size import ModelError
from mlo_lbg.predictors import OneNetwork
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation, fit


def _answer(network: nn.Module, inputs: Tensor) -> GatedAnswer:
    """Logits, shallow logits and openness of a gated network, normalised or not."""
    if isinstance(network, Normalised):
        return _answer(network.network, network.normalise(inputs))
    if not isinstance(network, GatedNetwork):
        raise ModelError(
            f"architecture: expected make_gated to build a GatedNetwork, "
            f"got {type(network).__name__}"
        )
    return network.answer(inputs)


def deepmoe(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    sparsity: float = 0.01,
    embedding: float = 1.0,
    seed: int,
    trainer: Trainer = ALONE,
) -> OneNetwork:
    """Minimise `mean_n l(z(x_n), y_n) + sparsity · mean |g| + embedding · mean_n l(z_e(x_n), y_n)`.

    `g^l = relu(W^l e(x))` multiplies the channels of hidden layer l, and z_e is a linear head on
    the embedding e, so that the embedding is told about the classes early. The L1 norm of the gates
    is divided by their number, so that `sparsity` means the same at every depth.

    The published networks are wider than their baselines; this one is within the same budget.
    Channels are switched by multiplying with 0: fewer of them save no time here.

    Args:
        train: All training examples; the attribute is not used.
        architecture: `make_gated` is built.
        optimisation: AdamW settings.
        sparsity: Weight of the gates' mean, 0 or more.
        embedding: Weight of the embedding's own loss, 0 or more.
        seed: Decides initial weights and batches.
        trainer: How it is run.

    Raises:
        ModelError: If the architecture has no gated form, or a weight is negative.

    References:
        Wang et al. (2019), Deep mixture of experts via shallow embedding, arXiv 1806.01531.
    """
    for name, weight in (("sparsity", sparsity), ("embedding", embedding)):
        if not weight >= 0:
            raise ModelError(f"{name}: expected 0 or more, got {weight}")
    if architecture.make_gated is None:
        raise ModelError(
            "architecture: expected one with make_gated, as perceptrons and CIFAR ResNets have, "
            "got None"
        )
    init, order = spawn(seed, 2)
    with seeded(init):
        network = architecture.make_gated().to(train.inputs.device)

        def loss(_index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            answer = _answer(network, inputs)
            deep = cross_entropy(answer.logits, targets)
            shallow = cross_entropy(answer.shallow, targets)
            return deep + sparsity * answer.openness + embedding * shallow

        batches = Batches(train, size=optimisation.batch_size, seed=order)
        fit(network, loss, batches, optimisation, trainer=trainer)
    return OneNetwork(network=network)
