"""Swin-T and the shallower forms of it."""

from collections.abc import Sequence

from torch import nn
from torchvision.models import Swin_T_Weights
from torchvision.models.swin_transformer import SwinTransformer

from mlo_lbg.models.pretrained import load_common
from mlo_lbg.models.size import ModelError

FULL = (2, 2, 6, 2)
"""Transformer blocks of each stage of Swin-T."""

_HEADS = (3, 6, 12, 24)
"""Attention heads of each stage."""


def swin(
    *,
    classes: int,
    blocks: Sequence[int] = FULL,
    stochastic_depth: float = 0.2,
    pretrained: bool = False,
) -> nn.Module:
    """A Swin transformer of Swin-T's width, from torchvision: `blocks[s]` blocks in stage s.

    Args:
        classes: Number of outputs.
        blocks: Transformer blocks of each stage; fewer than 4 numbers leave out the last stages.
        stochastic_depth: Probability that the last block is skipped in training, growing linearly
            from 0 at the first.
        pretrained: Start from Swin-T's ImageNet weights, but for the last layer if it has other
            classes and for the last normalisation if stages are left out. Downloads them when first
            used.

    Raises:
        ModelError: If there are not 2 to 4 positive numbers.

    References:
        Liu et al. (2021), Swin transformer, arXiv 2103.14030.

    >>> import torch
    >>> swin(classes=2, blocks=(1, 1))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 2])
    """
    if not 2 <= len(blocks) <= len(FULL) or min(blocks) < 1:
        raise ModelError(f"blocks: expected 2 to 4 numbers of at least 1, got {tuple(blocks)}")
    network: nn.Module = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=96,
        depths=list(blocks),
        num_heads=list(_HEADS[: len(blocks)]),
        window_size=[7, 7],
        stochastic_depth_prob=stochastic_depth,
        num_classes=classes,
    )
    # On the meta device only the size is asked for.
    if pretrained and not next(network.parameters()).is_meta:
        published = Swin_T_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        load_common(network, published, differing=["norm", "head"])
    return network
