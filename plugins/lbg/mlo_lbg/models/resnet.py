"""ResNet-18 and the shallower forms of it, for images of about 224×224."""

from collections.abc import Sequence

from torch import nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

from mlo_lbg.models.pretrained import load_common
from mlo_lbg.models.size import ModelError

FULL = (2, 2, 2, 2)
"""Residual blocks of each stage of ResNet-18."""

_WIDTH = 64
"""Channels of the first stage; each later stage has twice as many."""


def resnet(*, classes: int, blocks: Sequence[int] = FULL, pretrained: bool = False) -> nn.Module:
    """ResNet of torchvision's basic blocks, `blocks[s]` of them in stage s, at most 4 stages.

    Of the parameters of ResNet-18 three quarters lie in the last stage: less than half the network
    is had by leaving that stage out.

    Args:
        classes: Number of outputs.
        blocks: Residual blocks of each stage; fewer than 4 numbers leave out the last stages.
        pretrained: Start from ResNet-18's ImageNet weights, but for the last layer if it has other
            classes and for a stage's third block and later. Downloads them when first used.

    Raises:
        ModelError: If there are not 1 to 4 positive numbers.

    References:
        He, Zhang, Ren and Sun (2016), Deep residual learning, arXiv 1512.03385.

    >>> import torch
    >>> resnet(classes=2, blocks=(1, 1))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 2])
    """
    if not 1 <= len(blocks) <= len(FULL) or min(blocks) < 1:
        raise ModelError(f"blocks: expected 1 to 4 numbers of at least 1, got {tuple(blocks)}")
    missing = len(FULL) - len(blocks)
    # The constructor knows four stages only: those beyond the last are replaced by nothing.
    network: nn.Module = ResNet(BasicBlock, [*blocks, *[1] * missing], num_classes=classes)
    for stage in range(len(blocks) + 1, len(FULL) + 1):
        setattr(network, f"layer{stage}", nn.Identity())
    head = nn.Linear(_WIDTH * 2 ** (len(blocks) - 1), classes)
    network.fc = head
    # On the meta device only the size is asked for.
    if pretrained and not head.weight.is_meta:
        published = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        load_common(network, published, differing=["fc"])
    return network
