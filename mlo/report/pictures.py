"""Images of a run, embedded in the page."""

import io
import warnings
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image as Pillow

from mlo.report.reading import bytes_of
from mlo.report.run import Run
from mlo.report.wording import number

_EACH, _ALL = 4 << 20, 24 << 20
_OTHERS, _PIXELS = 12, 50_000_000
_TYPES: Final = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WEBP": "webp"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image as it stands on the page."""

    caption: str
    source: str
    width: int
    height: int


@dataclass
class Album:
    """Pictures up to a total size: what would be larger is noted and left out."""

    left: int
    pictures: list[Picture] = field(default_factory=list)

    def add(self, run: Run, file: str, caption: str) -> None:
        """Take in an image file of a run, if it is one and there is room."""
        content = bytes_of(run.directory, file, run.faults, limit=_EACH)
        if content is None:
            return
        if len(content) > self.left:
            run.faults.add("images", f"beyond {_ALL >> 20} MiB in all, left out")
            return
        known = _measured(content)
        if known is None:
            run.faults.add(file, "not a PNG, JPEG, GIF or WebP image")
            return
        kind, width, height = known
        self.left -= len(content)
        source = f"data:image/{kind};base64,{b64encode(content).decode()}"
        self.pictures.append(Picture(caption=caption, source=source, width=width, height=height))


def pictures_of(runs: tuple[Run, ...]) -> list[Picture]:
    """Return recorded images by name and time, then others that lie in the directories."""
    album = Album(left=_ALL)
    for run in runs:
        prefix = f"{run.name} · " if len(runs) > 1 else ""
        recorded: set[str] = set()
        for (scope, name), spread in run.collected.images.items():
            title = " · ".join(filter(None, (name, scope)))
            for image in spread.items():
                when = "" if image.step is None else f", step {number(image.step)}"
                album.add(run, image.file, f"{prefix}{title}{when}")
                recorded.add(image.file)
        for file in _others(run.directory):
            if file not in recorded:
                album.add(run, file, f"{prefix}{file}")
    return album.pictures


def _others(directory: Path) -> Iterator[str]:
    """Yield the images that a program wrote beside what it recorded."""
    try:
        names = sorted(p.name for p in directory.iterdir() if p.suffix.lower() in (".png", ".jpg"))
    except OSError:
        return
    yield from names[:_OTHERS]


def _measured(content: bytes) -> tuple[str, int, int] | None:
    """Return type, width and height of an image without decoding it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Pillow.open(io.BytesIO(content), formats=tuple(_TYPES)) as image:
                width, height = image.size
                kind = _TYPES[image.format or ""]
    except Exception:
        # Readers of images fail in ways of their own.
        return None
    return (kind, width, height) if 0 < width * height <= _PIXELS else None
