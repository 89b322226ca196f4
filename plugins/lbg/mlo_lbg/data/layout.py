"""Where the files of a data set lie, and what to say when they do not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mlo_lbg.data.dataset import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """A published data set and the page that hands it out.

    Args:
        name: Its usual name.
        homepage: Address of the page to get it from.
    """

    name: str
    homepage: str

    def locate(self, root: Path, *names: str) -> Path:
        """The first of `root / name` that exists.

        Args:
            root: Folder of the data set, or a folder above it.
            names: Relative paths, the usual one first.

        Raises:
            DataError: If none exists; it names the first one and the page to get it from.

        >>> Source(name="Adult", homepage="https://a.example").locate(Path("nowhere"), "adult.data")
        Traceback (most recent call last):
        ...
        mlo_lbg.data.dataset.DataError: root: expected Adult as 'adult.data' in 'nowhere', \
which is not there; get it from https://a.example
        """
        for name in names:
            if (root / name).exists():
                return root / name
        raise DataError(
            f"root: expected {self.name} as {names[0]!r} in {str(root)!r}, which is not there; "
            f"get it from {self.homepage}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Folders:
    """Image files in one folder a class: file n lies in the folder `classes[targets[n]]`.

    Args:
        classes: Names of the folders in alphabetical order.
        paths: Files by class, alphabetical within a class.
        targets: `(files,)` int64 class of each file.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: Tensor


def class_folders(folder: Path, *, classes: Sequence[str] | None = None) -> Folders:
    """The JPEG and PNG files of `folder / class /`, one class for each folder.

    Args:
        folder: What holds the folders.
        classes: The folders to expect; by default whatever is there.

    Raises:
        DataError: If there is no class, an expected one is missing, or a class has no image.
    """
    try:
        found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        names = found if classes is None else list(classes)
        if not names:
            raise DataError(f"{str(folder)!r}: expected one folder for each class, found none")
        paths: list[Path] = []
        targets: list[int] = []
        for code, name in enumerate(names):
            files = sorted(
                entry
                for entry in (folder / name).iterdir()
                if entry.suffix.lower() in IMAGE_SUFFIXES
            )
            if not files:
                raise DataError(f"{str(folder / name)!r}: expected JPEG or PNG files, found none")
            paths += files
            targets += [code] * len(files)
    except OSError as error:
        raise DataError(
            f"{str(error.filename)!r}: expected a folder of images ({error.strerror})"
        ) from error
    return Folders(
        classes=tuple(names), paths=tuple(paths), targets=torch.tensor(targets, dtype=torch.int64)
    )
