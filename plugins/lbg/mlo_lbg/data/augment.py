"""Random crops, flips and holes for a whole batch of images at once."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mlo_lbg.data.dataset import DataError


def _moved(draws: Tensor, device: torch.device) -> Tensor:
    # A copy from pageable memory may wait for the device; one from pinned memory never does.
    if device.type == "cuda":
        draws = draws.pin_memory()
    return draws.to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Shift by at most `padding` pixels, mirror half of the images, paint one square in each.

    All draws of a batch are made on the CPU and copied in one piece, so that one generator decides
    them on every device and the device is never waited for. Nothing loops over images.

    Args:
        padding: An image is padded by as many black pixels on each side; a window of its old size
            is cut out at a random place. 0 turns this off.
        flip: Mirror each image left to right with probability one half.
        cutout: Side of the square that is painted; its centre is uniform over the image, so that
            a part of it may lie outside. 0 turns this off.
        fill: Red, green and blue of the square in 0..255. The mean colour of the training images
            is what becomes 0 in a network that normalises.

    Raises:
        DataError: If a setting is out of range, or the images are not a batch of RGB.

    References:
        DeVries and Taylor (2017), Improved regularization of convolutional neural networks with
        cutout, arXiv:1708.04552.

    >>> images = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> still = Augment(padding=0, flip=False)
    >>> still(images, torch.Generator()).equal(images)
    True
    """

    padding: int = 4
    flip: bool = True
    cutout: int = 0
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        for field in ("padding", "cutout"):
            if getattr(self, field) < 0:
                raise DataError(f"{field}: expected 0 or more pixels, got {getattr(self, field)}")
        if not all(0 <= value <= 255 for value in self.fill):
            raise DataError(f"fill: expected three numbers in 0..255, got {self.fill}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images changed at random, in the same type, shape and device.

        Args:
            images: `(batch, 3, height, width)`.
            generator: On the CPU; five numbers an image are drawn from it, whatever the settings.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise DataError(
                f"images: expected shape (batch, 3, height, width), got {tuple(images.shape)}"
            )
        batch, _, height, width = images.shape
        # In this order: top and left of the window, mirrored or not, centre of the square.
        bounds = torch.tensor([2 * self.padding + 1, 2 * self.padding + 1, 2, height, width])
        uniform = torch.rand(5, batch, generator=generator, dtype=torch.float64)
        draws = _moved((uniform * bounds[:, None]).to(torch.int64), images.device)
        top, left, mirrored, centre_y, centre_x = draws
        if self.padding or self.flip:
            images = self._window(images, top, left, mirrored)
        if self.cutout:
            images = self._with_square(images, centre_y, centre_x)
        return images

    def _window(self, images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(batch, width)
        if self.flip:
            columns = torch.where(mirrored[:, None] == 1, width - 1 - columns, columns)
        columns = left[:, None] + columns
        padded = functional.pad(images, [self.padding] * 4)
        wide = width + 2 * self.padding
        window = padded.gather(2, rows[:, None, :, None].expand(batch, channels, height, wide))
        return window.gather(3, columns[:, None, None, :].expand(batch, channels, height, width))

    def _with_square(self, images: Tensor, centre_y: Tensor, centre_x: Tensor) -> Tensor:
        def covered(centre: Tensor, size: int) -> Tensor:
            places = torch.arange(size, device=images.device)
            first = centre[:, None] - self.cutout // 2
            return (places >= first) & (places < first + self.cutout)

        rows, columns = (
            covered(centre_y, images.shape[2])[:, None, :, None],
            covered(centre_x, images.shape[3])[:, None, None, :],
        )
        for channel, value in enumerate(self.fill):
            hole = (rows & columns)[:, 0]
            images = images.clone() if channel == 0 else images
            images[:, channel].masked_fill_(hole, value)
        return images
