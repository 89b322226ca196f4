"""The families of networks that image tables are made with."""

from collections.abc import Callable, Sequence
from itertools import product

from torch import nn

from mlo_lbg.models.cifar_resnet import Blocks, CifarResNet, blocks_of, cifar_resnet_size
from mlo_lbg.models.gated import gated_cifar_resnet
from mlo_lbg.models.resnet import FULL as RESNET_18
from mlo_lbg.models.resnet import resnet
from mlo_lbg.models.size import ModelError
from mlo_lbg.models.sized import Family, Variant
from mlo_lbg.models.swin import FULL as SWIN_T
from mlo_lbg.models.swin import swin
from mlo_lbg.models.t2t_vit import T2tVit

USUAL_DEPTHS = (8, 14, 20, 26, 32, 44, 56, 110)
"""Depths of the CIFAR ResNets that tables name."""


def _cifar_resnet(blocks: Blocks, width: int) -> Variant:
    depth = 2 * sum(blocks) + 2
    even = len(set(blocks)) == 1
    stages = "" if even else f" [{','.join(map(str, blocks))}]"
    return Variant(
        label=f"ResNet-{depth}{stages}" + ("" if width == 16 else f" width {width}"),
        build=lambda outputs: CifarResNet(blocks=blocks, classes=outputs, width=width),
        size=lambda outputs: cifar_resnet_size(blocks, outputs, width),
    )


def cifar_resnets(*, depth: int = 56, width: int = 16, gate_width: int | None = None) -> Family:
    """CIFAR ResNets up to a depth; the gate is ResNet-8.

    Forms in between have fewer blocks in their last stage, which holds most of the parameters.

    Args:
        depth: Of the baseline.
        width: Channels of the first stage of all networks but the gate.
        gate_width: The same of the gate; as all others if not given. A narrower gate leaves room
            for experts where the baseline is shallow.

    Raises:
        ModelError: If the depth is not one of the usual ones.

    >>> [variant.label for variant in cifar_resnets(depth=20).variants]
    ['ResNet-8', 'ResNet-14', 'ResNet-20']
    """
    if depth not in USUAL_DEPTHS:
        nearest = min(USUAL_DEPTHS, key=lambda usual: abs(usual - depth))
        raise ModelError(
            f"depth: expected one of {', '.join(map(str, USUAL_DEPTHS))}, got {depth}; "
            f"did you mean {nearest}?"
        )
    usual = [blocks_of(each) for each in USUAL_DEPTHS if each <= depth]
    between = [
        (n, n, last) for n in range(1, usual[-1][0] + 1) for last in range(max(1, n - 3), n + 1)
    ]
    return Family(
        variants=tuple(_cifar_resnet(blocks, width) for blocks in usual),
        gate=_cifar_resnet(blocks_of(8), width if gate_width is None else gate_width),
        between=tuple(_cifar_resnet(blocks, width) for blocks in between if blocks not in usual),
        gated=lambda classes, budget: gated_cifar_resnet(
            classes=classes, width=width, budget=budget
        ),
    )


def _shallower(
    name: str, full: Sequence[int], build: Callable[[int, tuple[int, ...]], nn.Module]
) -> Callable[[tuple[int, ...]], Variant]:
    """Variants that are told by their blocks per stage; the whole network by its name."""

    def variant(blocks: tuple[int, ...]) -> Variant:
        whole = blocks == tuple(full)
        stages = ",".join(map(str, blocks))
        return Variant(
            label=name if whole else f"{name} [{stages}]",
            build=lambda outputs: build(outputs, blocks),
        )

    return variant


def resnets(*, pretrained: bool = False) -> Family:
    """ResNet-18 and its shallower forms; the gate is its first two stages with a block each.

    Args:
        pretrained: Start all of them from ResNet-18's ImageNet weights, as far as they have the
            same layers. Images are then best normalised with ImageNet's channels.

    >>> resnets().baseline.label, resnets().gate.label
    ('ResNet-18', 'ResNet-18 [1,1]')
    """
    usual = [
        (1, 1, 1),
        *((2, 2, blocks) for blocks in (1, 2, 3, 4)),
        (1, 1, 1, 1),
        (2, 1, 1, 1),
        (2, 2, 1, 1),
        (2, 2, 2, 1),
        RESNET_18,
    ]
    others = set(product((1, 2), (1, 2), (1, 2, 3, 4))) - set(usual)
    variant = _shallower(
        "ResNet-18",
        RESNET_18,
        lambda outputs, blocks: resnet(classes=outputs, blocks=blocks, pretrained=pretrained),
    )
    return Family(
        variants=tuple(map(variant, usual)),
        gate=variant((1, 1)),
        between=tuple(map(variant, sorted(others))),
    )


def swins(*, stochastic_depth: float = 0.2, pretrained: bool = False) -> Family:
    """Swin-T and its shallower forms; the gate is its first two stages with a block each.

    Args:
        stochastic_depth: Of all of them.
        pretrained: Start all of them from Swin-T's ImageNet weights, as far as they have the same
            layers. Images are then best normalised with ImageNet's channels.

    >>> swins().baseline.label, swins().gate.label
    ('Swin-T', 'Swin-T [1,1]')
    """
    usual = [
        (1, 1, 1),
        *((2, 2, blocks) for blocks in range(2, 7)),
        (1, 1, 2, 1),
        (2, 2, 2, 1),
        (2, 2, 6, 1),
        SWIN_T,
    ]
    variant = _shallower(
        "Swin-T",
        SWIN_T,
        lambda outputs, blocks: swin(
            classes=outputs,
            blocks=blocks,
            stochastic_depth=stochastic_depth,
            pretrained=pretrained,
        ),
    )
    return Family(
        variants=tuple(map(variant, usual)),
        gate=variant((1, 1)),
        between=tuple(variant((1, 1, blocks)) for blocks in range(2, 7)),
    )


def t2t_vits(*, image_size: int = 224, depth: int = 14) -> Family:
    """T2T-ViT of every depth up to 14, the width unchanged; the gate has depth 1.

    Args:
        image_size: Height and width of the images, a multiple of 16.
        depth: Of the baseline.

    >>> len(t2t_vits().variants), t2t_vits().baseline.label
    (14, 'T2T-ViT-14')
    """

    def variant(blocks: int) -> Variant:
        return Variant(
            label=f"T2T-ViT-{blocks}",
            build=lambda outputs: T2tVit(classes=outputs, depth=blocks, image_size=image_size),
        )

    return Family(
        variants=tuple(variant(blocks) for blocks in range(1, depth + 1)), gate=variant(1)
    )
