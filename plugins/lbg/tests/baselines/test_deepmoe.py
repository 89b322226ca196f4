from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mlo_lbg.architecture import from_family, perceptrons
from mlo_lbg.baselines.deepmoe import deepmoe
from mlo_lbg.data.collection import Channels
from mlo_lbg.data.dataset import Examples
from mlo_lbg.models.families import cifar_resnets
from mlo_lbg.models.gated import GatedNetwork
from mlo_lbg.models.size import ModelError
from mlo_lbg.training import Optimisation

ARCHITECTURE = perceptrons(inputs=6, classes=2, num_groups=2, hidden=(32,))


def crosses(count: int = 300, seed: int = 0) -> Examples:
    """Class 1 where two features have the same sign: no linear model can tell."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    return Examples(
        inputs=inputs, targets=targets, attribute=0 * targets, num_classes=2, num_attributes=1
    )


def openness(network: nn.Module, inputs: Tensor) -> float:
    assert isinstance(network, GatedNetwork)
    return network.answer(inputs).openness.item()


def test_solves_what_no_linear_model_can() -> None:
    trained = deepmoe(crosses(1000), ARCHITECTURE, Optimisation(epochs=20), seed=0)
    test = crosses(seed=1)
    assert (trained.predict(test.inputs) != test.targets).float().mean() < 0.15
    assert trained.groups(test.inputs) is None
    assert not trained.network.training


def test_sparsity_closes_gates() -> None:
    examples, settings = crosses(), Optimisation(epochs=10)
    found = [
        openness(
            deepmoe(examples, ARCHITECTURE, settings, sparsity=weight, seed=0).network,
            examples.inputs,
        )
        for weight in (0.0, 3.0)
    ]
    assert found[1] < 0.5 * found[0]


def test_the_embedding_is_told_the_classes_only_by_its_own_loss() -> None:
    examples = crosses()

    def head(weight: float, epochs: int) -> Tensor:
        network = deepmoe(
            examples,
            ARCHITECTURE,
            Optimisation(epochs=epochs, weight_decay=0.0),
            embedding=weight,
            seed=0,
        ).network
        assert isinstance(network, GatedNetwork)
        return network.gates.head.weight.detach()

    assert head(0.0, 1).equal(head(0.0, 3))
    assert not head(1.0, 1).equal(head(1.0, 3))


def test_images_and_a_last_batch_of_one_row() -> None:
    architecture = from_family(
        cifar_resnets(depth=20, width=4),
        classes=2,
        num_groups=2,
        channels=Channels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8, generator=generator)
    codes = torch.arange(9) % 2
    examples = Examples(
        inputs=images, targets=codes, attribute=codes, num_classes=2, num_attributes=2
    )
    trained = deepmoe(examples, architecture, Optimisation(epochs=1, batch_size=4), seed=0)
    assert trained.predict(images).shape == (9,)
    assert abs(trained.num_parameters - architecture.budget) <= 0.1 * architecture.budget


def test_errors_name_the_field() -> None:
    settings = Optimisation(epochs=1)
    with pytest.raises(ModelError, match=r"make_gated, .* got None"):
        deepmoe(crosses(9), replace(ARCHITECTURE, make_gated=None), settings, seed=0)
    wrong = replace(ARCHITECTURE, make_gated=lambda: nn.Linear(6, 2))
    with pytest.raises(ModelError, match="expected make_gated to build a GatedNetwork, got Linear"):
        deepmoe(crosses(9), wrong, settings, seed=0)
    with pytest.raises(ModelError, match="sparsity: expected 0 or more, got -1"):
        deepmoe(crosses(9), ARCHITECTURE, settings, sparsity=-1, seed=0)
