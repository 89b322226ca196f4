"""Image files as uint8 tensors of one size, decoded once."""

import os
import struct
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mlo_lbg.data.collection import Channels
from mlo_lbg.data.dataset import DataError

FORMATS = ("JPEG", "PNG")


def read_image(path: Path, *, size: int) -> Tensor:
    """The largest central square of an image, resampled to `size` pixels a side.

    An image that is a square of that size already is not resampled.

    Args:
        path: A JPEG or PNG file of any colour mode.
        size: Height and width of the result.

    Returns:
        `(3, size, size)` uint8, red, green and blue.

    Raises:
        DataError: If the file is missing or is not a whole image; one line that names it.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of broken EXIF data and of huge images; the latter is an error here.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.draft("RGB", (size, size))
                square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    except FileNotFoundError as error:
        raise DataError(f"{str(path)!r}: expected an image file, found none") from error
    except (
        OSError,
        SyntaxError,  # what Pillow raises for a PNG with a broken chunk
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        MemoryError,
        OverflowError,
        struct.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise DataError(
            f"{str(path)!r}: expected a JPEG or PNG image ({type(error).__name__})"
        ) from error
    return torch.from_numpy(np.array(square, dtype=np.uint8)).permute(2, 0, 1)


def read_images(paths: Sequence[Path], *, size: int) -> Tensor:
    """Every image of `paths` by `read_image`, decoded by as many threads as there are cores.

    Returns:
        `(images, 3, size, size)` uint8.

    Raises:
        DataError: If there is no path, the size is not positive, or an image cannot be read.
    """
    if size < 1:
        raise DataError(f"size: expected at least 1 pixel, got {size}")
    if not paths:
        raise DataError("paths: expected at least one image, got none")
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)

    def read(rows: range) -> None:
        for row in rows:
            images[row] = read_image(paths[row], size=size)

    workers = os.cpu_count() or 1
    chunk = 256
    with ThreadPoolExecutor(workers) as pool:
        starts = range(0, len(paths), chunk)
        for _ in pool.map(read, (range(s, min(s + chunk, len(paths))) for s in starts)):
            pass
    return images


def channels(images: Tensor) -> Channels:
    """Mean and population deviation of each colour of `images / 255`, exact by counting values.

    A colour that never varies gets a deviation of 1, so that dividing by it changes nothing.

    Args:
        images: `(images, 3, height, width)` uint8.

    >>> channels(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1))
    Channels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(3):
        counts = torch.zeros(256, dtype=torch.int64)
        for part in torch.split(images[:, channel], 4096):
            counts += torch.bincount(part.flatten(), minlength=256)
        share = counts.to(torch.float64) / counts.sum()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(float((share @ (values - mean).square()).sqrt()) or 1.0)
    red, green, blue = means
    red_std, green_std, blue_std = deviations
    return Channels(mean=(red, green, blue), std=(red_std, green_std, blue_std))
