"""Published sizes; weights are never made."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mlo_lbg.models.cifar_resnet import CifarResNet, blocks_of, cifar_resnet_size
from mlo_lbg.models.resnet import resnet
from mlo_lbg.models.size import ModelError, size_of
from mlo_lbg.models.swin import swin
from mlo_lbg.models.t2t_vit import T2tVit

CIFAR = {
    8: 75_290,
    14: 172_506,
    20: 269_722,
    26: 366_938,
    32: 464_154,
    56: 853_018,
    110: 1_727_962,
}


@pytest.mark.parametrize("depth", CIFAR)
def test_cifar_resnets(depth: int) -> None:
    blocks = blocks_of(depth)
    assert size_of(lambda: CifarResNet(blocks=blocks, classes=10)) == CIFAR[depth]
    assert cifar_resnet_size(blocks, 10) == CIFAR[depth]


def test_cifar_resnet_with_100_classes() -> None:
    assert size_of(lambda: CifarResNet(blocks=blocks_of(56), classes=100)) == 858_868


@pytest.mark.parametrize(("blocks", "width"), [((1, 3, 2), 4), ((4, 1, 1), 7), ((1, 1, 1), 1)])
def test_the_formula_counts_any_form(blocks: tuple[int, int, int], width: int) -> None:
    counted = size_of(lambda: CifarResNet(blocks=blocks, classes=3, width=width))
    assert cifar_resnet_size(blocks, 3, width) == counted


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: resnet(classes=1000), 11_689_512),
        (lambda: resnet(classes=2), 11_177_538),
        (lambda: resnet(classes=7), 11_180_103),
        (lambda: resnet(classes=2, blocks=(1, 1, 1, 1)), 4_906_818),
        (lambda: resnet(classes=2, blocks=(2, 1, 1, 1)), 4_980_802),
        (lambda: resnet(classes=2, blocks=(2, 2, 1, 1)), 5_276_226),
        (lambda: resnet(classes=2, blocks=(2, 2, 4)), 5_144_642),
        (lambda: resnet(classes=2, blocks=(2, 2, 2)), 2_783_298),
        (lambda: swin(classes=1000), 28_288_354),
        (lambda: swin(classes=1000, blocks=(2, 2, 2, 1)), 14_090_458),
        (lambda: swin(classes=1000, blocks=(1, 1, 2, 1)), 13_532_233),
        (lambda: T2tVit(classes=1000), 21_465_806),
        (lambda: T2tVit(classes=1000, depth=6), 9_641_678),
        (lambda: T2tVit(classes=1000, depth=7), 11_119_694),
    ],
)
def test_networks_for_large_images(make: Callable[[], nn.Module], count: int) -> None:
    assert size_of(make) == count


def test_asking_for_a_size_draws_no_random_numbers_and_loads_no_weights() -> None:
    before = torch.get_rng_state()
    assert size_of(lambda: resnet(classes=2, pretrained=True)) == 11_177_538
    assert size_of(lambda: swin(classes=1000, pretrained=True)) == 28_288_354
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: blocks_of(57), r"depth: expected 6n \+ 2 .* got 57; the nearest is 56"),
        (lambda: blocks_of(2), "depth: .* got 2; the nearest is 8"),
        (lambda: CifarResNet(blocks=(1, 0, 1), classes=2), r"blocks: .* got \(1, 0, 1\)"),
        (lambda: CifarResNet(blocks=(1, 1, 1), classes=2, width=0), "width: .* got 0"),
        (lambda: resnet(classes=2, blocks=(1,) * 5), "blocks: expected 1 to 4 numbers"),
        (lambda: swin(classes=2, blocks=(1,)), "blocks: expected 2 to 4 numbers"),
        (lambda: T2tVit(classes=2, depth=0), "depth: expected at least 1, got 0"),
        (lambda: T2tVit(classes=2, image_size=40), "image_size: .* multiple of 16, got 40"),
    ],
)
def test_errors_name_the_field(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()
