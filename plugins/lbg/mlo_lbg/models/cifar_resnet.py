"""Residual networks for small images, of depth 8 to 110 and beyond."""

from torch import Tensor, nn
from torch.nn.functional import pad

from mlo_lbg.models.size import ModelError


def convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """`BN(W ∗ x)`: 3×3, no bias, as large as the input or 1/stride of it.

    >>> import torch
    >>> convolution(3, 16, stride=2)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 16, 16, 16])
    """
    layer = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(after))


class Block(nn.Module):
    """`relu(second(relu(first(x))) + shortcut(x))`, with a shortcut that has no parameters.

    Args:
        before: Channels of the input.
        after: Channels of the output, at least as many.
        stride: 1, or 2 to halve height and width.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(before, after, stride)
        self.second = convolution(after, after)
        self.stride = stride
        self.more = after - before

    def shortcut(self, inputs: Tensor) -> Tensor:
        """Every `stride`-th pixel, with channels of zeros added: option A of the paper."""
        thinned = inputs[:, :, :: self.stride, :: self.stride]
        return pad(thinned, (0, 0, 0, 0, 0, self.more)) if self.more else thinned

    def forward(self, inputs: Tensor) -> Tensor:
        """`(batch, before, h, w)` to `(batch, after, h / stride, w / stride)`."""
        hidden = self.second(self.first(inputs).relu())
        output: Tensor = (hidden + self.shortcut(inputs)).relu()
        return output


Blocks = tuple[int, int, int]
"""Residual blocks of the three stages."""


def blocks_of(depth: int) -> Blocks:
    """`(n, n, n)` for a depth of `6n + 2`: the layers with weights are two a block, stem and head.

    Raises:
        ModelError: If the depth has no such n of at least 1.

    >>> blocks_of(56)
    (9, 9, 9)
    """
    each, rest = divmod(depth - 2, 6)
    if each < 1 or rest:
        raise ModelError(
            f"depth: expected 6n + 2 with n of at least 1, got {depth}; "
            f"the nearest is {6 * max(1, round((depth - 2) / 6)) + 2}"
        )
    return each, each, each


class CifarResNet(nn.Module):
    """A 3×3 stem, three stages of residual blocks at 1, 1/2 and 1/4 size, mean pooling, linear.

    The stages have `width`, `2 width` and `4 width` channels. With `blocks_of(depth)` at width 16
    these are the networks of the paper, 853,018 parameters at depth 56 for 10 classes; narrower
    ones suit a CPU.

    Args:
        blocks: Residual blocks of each stage.
        classes: Number of outputs.
        width: Channels of the first stage.

    Raises:
        ModelError: If a stage has no block, or the width is below 1.

    References:
        He, Zhang, Ren and Sun (2016), Deep residual learning, arXiv 1512.03385, section 4.2.

    >>> import torch
    >>> CifarResNet(blocks=blocks_of(8), classes=10, width=4)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, *, blocks: Blocks, classes: int, width: int = 16) -> None:
        super().__init__()
        if min(blocks) < 1:
            raise ModelError(f"blocks: expected three numbers of at least 1, got {tuple(blocks)}")
        if width < 1:
            raise ModelError(f"width: expected at least 1, got {width}")
        self.stem = convolution(3, width)
        made: list[nn.Module] = []
        before = width
        for stage, count in enumerate(blocks):
            after = width * 2**stage
            for place in range(count):
                made.append(Block(before, after, 2 if stage and not place else 1))
                before = after
        self.blocks = nn.Sequential(*made)
        self.head = nn.Linear(before, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `(batch, 3, height, width)` to `(batch, classes)` logits."""
        features: Tensor = self.blocks(self.stem(images).relu())
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def cifar_resnet_size(blocks: Blocks, classes: int, width: int = 16) -> int:
    """`num_parameters` of `CifarResNet`, by formula: families have many forms to choose from.

    >>> cifar_resnet_size(blocks_of(56), 10)
    853018
    """

    def layer(before: int, after: int) -> int:
        return 9 * before * after + 2 * after

    size, before = layer(3, width), width
    for stage, count in enumerate(blocks):
        after = width * 2**stage
        size += layer(before, after) + (2 * count - 1) * layer(after, after)
        before = after
    return size + (before + 1) * classes
