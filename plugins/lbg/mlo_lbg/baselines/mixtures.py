"""Gate and experts trained jointly on one loss: the mixtures that grouping has to beat."""

import torch
from torch import Tensor, nn

from mlo_lbg.architecture import Architecture
from mlo_lbg.balance import switch_balance
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples
from mlo_lbg.predictors import SoftMixture, TopOne
from mlo_lbg.routing import ValidationLoss, confidence_scaled, expected
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation, fit


def _gate_and_experts(architecture: Architecture, device: torch.device) -> nn.ModuleList:
    """The gate, then the experts, in one module that owns every parameter."""
    experts = [architecture.make_expert() for _ in range(architecture.num_groups)]
    return nn.ModuleList([architecture.make_gate(), *experts]).to(device)


def soft_mixture(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    objective: ValidationLoss = expected,
    seed: int,
    trainer: Trainer = ALONE,
) -> SoftMixture:
    """Minimise a mixture loss in which every expert answers every example.

    Args:
        train: All training examples; the attribute is not used.
        architecture: `make_gate` and `num_groups` times `make_expert` are built.
        optimisation: AdamW settings of gate and experts.
        objective: `routing.expected` or `routing.mixture`.
        seed: Decides initial weights and batches.
        trainer: How it is run.

    References:
        Jacobs, Jordan, Nowlan and Hinton (1991), Adaptive mixtures of local experts.
    """
    init, order = spawn(seed, 2)
    with seeded(init):
        modules = _gate_and_experts(architecture, train.inputs.device)
        gate, *experts = modules

        def loss(_index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            return objective(gate(inputs), experts, inputs, targets).mean()

        batches = Batches(train, size=optimisation.batch_size, seed=order)
        fit(modules, loss, batches, optimisation, trainer=trainer)
    return SoftMixture(gate=gate, experts=experts)


def top_one_mixture(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    balance: float = 0.01,
    seed: int,
    trainer: Trainer = ALONE,
) -> TopOne:
    """Minimise `mean_n −log softmax(E_n z_ĵ(x_n))[y_n] + balance · switch_balance`.

    ĵ is the gate's top choice and E its softmax there, taken *before* the top choice: taken after
    it, E would be 1 and the gate would get no gradient. Each expert runs on its own examples only.

    Args:
        train: All training examples; the attribute is not used.
        architecture: `make_gate` and `num_groups` times `make_expert` are built.
        optimisation: AdamW settings of gate and experts.
        balance: Weight of the load-balance term, 0 for none.
        seed: Decides initial weights and batches.
        trainer: How it is run.

    References:
        Riquelme et al. (2021), Scaling vision with sparse mixture of experts, arXiv 2106.05974.
        Fedus, Zoph and Shazeer (2022), Switch transformers, arXiv 2101.03961.
    """
    init, order = spawn(seed, 2)
    with seeded(init):
        modules = _gate_and_experts(architecture, train.inputs.device)
        gate, *experts = modules

        def loss(_index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            scores = gate(inputs)
            losses = confidence_scaled(scores, experts, inputs, targets)
            return losses.mean() + balance * switch_balance(scores)

        batches = Batches(train, size=optimisation.batch_size, seed=order)
        fit(modules, loss, batches, optimisation, trainer=trainer)
    return TopOne(gate=gate, experts=experts)
