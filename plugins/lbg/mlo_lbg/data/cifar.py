"""CIFAR-10 and CIFAR-100: 60,000 photographs of 32 by 32 pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import download_and_extract_archive

from mlo.errors import nearest
from mlo_lbg.data.collection import Collection
from mlo_lbg.data.dataset import DataError, Examples, Split
from mlo_lbg.data.images import channels
from mlo_lbg.data.inert_pickle import labels, matrix, read_pickle, texts
from mlo_lbg.data.layout import Source
from mlo_lbg.data.sampling import subset

Attribute = Literal["all", "superclass"]

HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SIZE = 32
PIXELS = 3 * SIZE * SIZE
EVERYBODY = ("all",)
"""The one value of an attribute that tells nobody apart."""


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """One of the two data sets.

    Args:
        source: Where it comes from.
        pickles: Folder of the pickled form, its files for training and for testing, and the names.
        binary: Folder of the binary form and its files.
        label: Names of the label fields, the class last, with the number of their values.
        names: Names of the fields with the names of those values.
        archive: torchvision's class, which knows address and checksum.
    """

    source: Source
    pickles: str
    pickle_files: tuple[tuple[str, ...], tuple[str, ...], str]
    binary: str
    binary_files: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    labels: tuple[tuple[str, str, int], ...]
    archive: type[CIFAR10]


TEN = _Variant(
    source=Source(name="CIFAR-10", homepage=HOMEPAGE),
    pickles="cifar-10-batches-py",
    pickle_files=(
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "batches.meta",
    ),
    binary="cifar-10-batches-bin",
    binary_files=(
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
        ("batches.meta.txt",),
    ),
    labels=(("labels", "label_names", 10),),
    archive=CIFAR10,
)
HUNDRED = _Variant(
    source=Source(name="CIFAR-100", homepage=HOMEPAGE),
    pickles="cifar-100-python",
    pickle_files=(("train",), ("test",), "meta"),
    binary="cifar-100-binary",
    binary_files=(
        ("train.bin",),
        ("test.bin",),
        ("coarse_label_names.txt", "fine_label_names.txt"),
    ),
    labels=(
        ("coarse_labels", "coarse_label_names", 20),
        ("fine_labels", "fine_label_names", 100),
    ),
    archive=CIFAR100,
)

Rows = tuple[Tensor, tuple[Tensor, ...]]
"""`(rows, 3, 32, 32)` images and one `(rows,)` tensor for each kind of label."""


def _content(path: Path, source: Source) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{str(path)!r}: expected a file of {source.name} ({error.strerror}); "
            f"get it from {source.homepage}"
        ) from error


def _pickled(path: Path, variant: _Variant) -> Rows:
    where = str(path)
    values = read_pickle(_content(path, variant.source), source=where)
    images = matrix(values, "data", PIXELS, source=where).reshape(-1, 3, SIZE, SIZE)
    return images, tuple(
        labels(values, field, count, len(images), source=where)
        for field, _, count in variant.labels
    )


def _binary(path: Path, variant: _Variant) -> Rows:
    content = _content(path, variant.source)
    width = len(variant.labels) + PIXELS
    if not content or len(content) % width:
        raise DataError(
            f"{str(path)!r}: expected records of {width} bytes, got {len(content)} bytes"
        )
    records = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy()).reshape(-1, width)
    codes = records[:, : len(variant.labels)].to(torch.int64)
    for column, (field, _, count) in enumerate(variant.labels):
        if codes[:, column].max() >= count:
            raise DataError(
                f"{str(path)!r}: {field}: expected numbers in 0..{count - 1}, "
                f"got {int(codes[:, column].max())}"
            )
    images = records[:, len(variant.labels) :].reshape(-1, 3, SIZE, SIZE).contiguous()
    return images, tuple(codes.unbind(1))


def _lines(path: Path, count: int, source: Source) -> tuple[str, ...]:
    text = _content(path, source).decode(errors="replace")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != count:
        raise DataError(f"{str(path)!r}: expected {count} names, got {len(names)}")
    return names


def _together(paths: list[Path], read: Callable[[Path, _Variant], Rows], variant: _Variant) -> Rows:
    parts = [read(path, variant) for path in paths]
    return (
        torch.cat([images for images, _ in parts]),
        tuple(torch.cat(codes) for codes in zip(*(codes for _, codes in parts), strict=True)),
    )


def _read(root: Path, variant: _Variant) -> tuple[Rows, Rows, tuple[tuple[str, ...], ...]]:
    """Training rows, test rows and the names of each kind of label, of whichever form there is."""
    folder = root
    if root.name not in (variant.pickles, variant.binary):
        folder = variant.source.locate(root, variant.pickles, variant.binary)
    if folder.name == variant.pickles:
        train, test, meta = variant.pickle_files
        values = read_pickle(_content(folder / meta, variant.source), source=str(folder / meta))
        names = tuple(
            texts(values, field, count, source=str(folder / meta))
            for _, field, count in variant.labels
        )
        read = _pickled
    else:
        train, test, name_files = variant.binary_files
        names = tuple(
            _lines(folder / file, count, variant.source)
            for file, (_, _, count) in zip(name_files, variant.labels, strict=True)
        )
        read = _binary
    train_rows = _together([folder / file for file in train], read, variant)
    return train_rows, _together([folder / file for file in test], read, variant), names


def _collection(
    root: Path,
    variant: _Variant,
    attribute: Attribute,
    num_train: int | None,
    num_test: int | None,
    download: bool,
    seed: int,
) -> Collection:
    if download and not (root / variant.pickles).exists():
        archive = variant.archive
        try:
            download_and_extract_archive(
                archive.url, str(root), filename=archive.filename, md5=archive.tgz_md5
            )
        except (OSError, RuntimeError, URLError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"download: cannot fetch {archive.url} ({reason})") from error
    train, test, names = _read(root, variant)
    values = names[0] if attribute == "superclass" else EVERYBODY

    def examples(rows: Rows) -> Examples:
        images, codes = rows
        return Examples(
            inputs=images,
            targets=codes[-1],
            attribute=codes[0] if attribute == "superclass" else torch.zeros_like(codes[-1]),
            num_classes=len(names[-1]),
            num_attributes=len(values),
        )

    split = Split(
        train=subset(examples(train), num_train, seed=seed, field="num_train"),
        test=subset(examples(test), num_test, seed=seed, field="num_test"),
    )
    return Collection(
        split=split,
        classes=names[-1],
        attribute=attribute,
        values=values,
        channels=channels(split.train.inputs),
    )


def cifar10(
    root: Path,
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    download: bool = False,
    seed: int,
) -> Collection:
    """Read CIFAR-10 in its official division of 50,000 and 10,000; it has no attribute.

    Both official forms are read: `cifar-10-batches-py`, without running what its pickles ask
    for, and `cifar-10-batches-bin`.

    Args:
        root: The folder above such a folder, or that folder itself.
        num_train: Random training images, with the class shares of the whole; by default all.
        num_test: The same for test images.
        download: Let torchvision fetch and check the archive into `root` if it is not there.
        seed: Decides which images are taken; without a number, nothing.

    Returns:
        Inputs `(rows, 3, 32, 32)` uint8.

    Raises:
        DataError: If a file is missing or broken, or a number is out of range.

    References:
        Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    return _collection(root, TEN, "all", num_train, num_test, download, seed)


def cifar100(
    root: Path,
    *,
    attribute: Attribute = "all",
    num_train: int | None = None,
    num_test: int | None = None,
    download: bool = False,
    seed: int,
) -> Collection:
    """Read CIFAR-100 in its official division of 50,000 and 10,000.

    Args:
        root: The folder above `cifar-100-python` or `cifar-100-binary`, or that folder itself.
        attribute: *all* (one value for every image) or *superclass* (the 20 coarse labels).
        num_train: Random training images, with the class shares of the whole; by default all.
        num_test: The same for test images.
        download: Let torchvision fetch and check the archive into `root` if it is not there.
        seed: Decides which images are taken; without a number, nothing.

    Returns:
        Inputs `(rows, 3, 32, 32)` uint8.

    Raises:
        DataError: If a file is missing or broken, or a setting is unknown or out of range.

    References:
        Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    if attribute not in get_args(Attribute):
        raise DataError(
            f"attribute: expected one of {', '.join(get_args(Attribute))}, got {attribute!r}"
            + nearest(attribute, get_args(Attribute))
        )
    return _collection(root, HUNDRED, attribute, num_train, num_test, download, seed)
