"""Images of bytes become normalised floats in the first layer, on the device of the network."""

import torch
from torch import Tensor, nn

from mlo_lbg.data.collection import Channels


class Normalised(nn.Module):
    """`network((x / 255 − mean) / std)` for uint8 images; float images are taken to be in 0..1.

    Images stay bytes until here: a quarter of the memory and of the copies. Mean and deviation are
    buffers: they move with the network and are no parameters. The memory format of the images
    (contiguous or channels-last) is kept.

    Args:
        network: Normalised images `(batch, 3, height, width)` to `(batch, outputs)`.
        channels: Statistics of the training images.

    >>> channels = Channels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    >>> Normalised(nn.Flatten(), channels)(white)
    tensor([[2., 2., 2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, channels: Channels) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(channels.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(channels.std).view(3, 1, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """Images `(batch, 3, height, width)` to floats of the same shape."""
        floats = images.to(self.mean.dtype)
        if images.dtype == torch.uint8:
            floats = floats / 255
        return (floats - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Images `(batch, 3, height, width)` to `(batch, outputs)`."""
        outputs: Tensor = self.network(self.normalise(images))
        return outputs
