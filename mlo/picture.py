"""Pictures as the bytes of a PNG file."""

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.image import imsave
from torch import Tensor

from mlo.errors import ProgramError

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = (1, 3, 4)
_BYTES: Final = 64 << 20


def png_of(image: Tensor | Any | Path, name: str) -> bytes:
    """Return the bytes of a PNG file that shows an image.

    Args:
        image: ``(height, width)``, ``(height, width, channels)`` or ``(channels, height, width)``
            numbers with 1, 3 or 4 channels, the last of them opacity: bytes from 0 to 255, or
            floating from 0 to 1, beyond which they are cut off. Or the path of a PNG file.
        name: How a message calls it.

    Raises:
        ProgramError: It has another shape or type, or is no PNG file.
    """
    if isinstance(image, str | Path):
        return _read(Path(image), name)
    stream = io.BytesIO()
    pixels = _pixels(image, name)
    if pixels.ndim == 2:
        # A colour map would stretch what there is over all greys.
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    imsave(stream, pixels, format="png")
    return stream.getvalue()


def size_of(png: bytes) -> tuple[int, int]:
    """Return the width and the height in pixels of a PNG file."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(_BYTES + 1)
    except OSError as error:
        raise ProgramError(
            f"image {name!r}: cannot read {str(path)!r}: {error.strerror}"
        ) from error
    if not content.startswith(_SIGNATURE) or len(content) < 33:
        raise ProgramError(f"image {name!r}: {str(path)!r} is no PNG file")
    if len(content) > _BYTES:
        raise ProgramError(f"image {name!r}: {str(path)!r} is larger than {_BYTES >> 20} MiB")
    return content


def _pixels(image: Any, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if isinstance(image, Tensor):
        image = image.detach()
        # NumPy knows no bfloat16.
        image = (image.float() if image.is_floating_point() else image).cpu().numpy()
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] not in _CHANNELS and pixels.shape[0] in _CHANNELS:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))
    if not fits or pixels.size == 0:
        raise ProgramError(
            f"image {name!r}: expected shape (height, width) or (height, width, 3), got "
            f"{tuple(np.shape(image))}"
        )
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ProgramError(
            f"image {name!r}: expected bytes (uint8) or floating numbers, got {pixels.dtype}"
        )
    shown = np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    return (shown * 255).round().astype(np.uint8)
