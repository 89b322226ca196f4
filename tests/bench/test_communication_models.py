"""Models as lists of layers agree with the modules that they stand for."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from mlo.bench.communication_models import MODELS, Layer, resnet_18, swin_tiny, transformer


@pytest.mark.parametrize(
    ("layers", "build"),
    [(resnet_18, torchvision.models.resnet18), (swin_tiny, torchvision.models.swin_t)],
    ids=["ResNet-18", "Swin-T"],
)
def test_parameters_statistics_and_operations_are_those_of_the_module(layers, build):
    with torch.device("meta"):
        module = build().eval()
        with FlopCounterMode(display=False) as counter:
            module(torch.empty(1, 3, 224, 224))
    found = layers()
    sizes = [size for layer in found for size in layer.sizes]
    assert sorted(sizes) == sorted(p.numel() for p in module.parameters())
    assert sum(layer.flops for layer in found) == counter.get_total_flops()
    statistics = [size for layer in found for size in layer.statistics]
    assert sorted(statistics) == sorted(
        b.numel() for b in module.buffers() if b.is_floating_point()
    )


def test_a_token_costs_two_operations_a_parameter_and_attention():
    layers = transformer(blocks=3, width=64, vocabulary=100, context=32)
    matrices = 100 * 64 + 3 * 12 * 64 * 64
    attention = 3 * 2 * 2 * 64 * 32 / 2
    assert sum(layer.flops for layer in layers) == 2 * matrices + attention


def test_models_add_up():
    model = MODELS["1B"]()
    assert model.parameters == sum(model.sizes)
    assert model.flops == sum(layer.flops for layer in model.layers)
    assert model.statistics == ()
    assert Layer(sizes=(1, 2), flops=3).statistics == ()
