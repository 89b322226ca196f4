import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize, to_dtype

from mlo_lbg.data.collection import Channels
from mlo_lbg.models.normalised import Normalised
from mlo_lbg.models.size import num_parameters

CHANNELS = Channels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (4, 3, 8, 6), dtype=torch.uint8, generator=generator)


def test_equals_torchvision() -> None:
    expected = normalize(
        to_dtype(images(), torch.float32, scale=True), list(CHANNELS.mean), list(CHANNELS.std)
    )
    found = Normalised(nn.Identity(), CHANNELS)(images())
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)


def test_floats_are_taken_to_be_in_0_to_1() -> None:
    layer = Normalised(nn.Identity(), CHANNELS)
    assert torch.allclose(layer(images().float() / 255), layer(images()))


def test_statistics_are_no_parameters_and_move_with_the_network() -> None:
    layer = Normalised(nn.Linear(6, 2), CHANNELS)
    assert num_parameters(layer) == 14
    assert {"mean", "std"} <= set(layer.state_dict())
    assert layer.double()(images()).dtype == torch.float64


def test_the_memory_format_is_kept() -> None:
    last = images().contiguous(memory_format=torch.channels_last)
    found = Normalised(nn.Identity(), CHANNELS)(last)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, Normalised(nn.Identity(), CHANNELS)(images()))
