"""CIFAR-10 as JPEG files, one folder for each class."""

from pathlib import Path

import torch

from mlo_lbg.data.collection import Collection
from mlo_lbg.data.dataset import Examples, Split
from mlo_lbg.data.images import channels, read_images
from mlo_lbg.data.layout import Folders, Source, class_folders
from mlo_lbg.data.sampling import stratified

SOURCE = Source(
    name="CIFAR-10 as JPEG files", homepage="https://www.cs.toronto.edu/~kriz/cifar.html"
)


def folder_examples(
    folders: Folders, count: int | None, *, size: int, seed: int, field: str
) -> Examples:
    """Images of class folders, or a random number of them; one attribute value for all.

    Args:
        folders: What to read.
        count: How many, with the class shares of the whole; by default all, in their order.
        size: Height and width to bring them to.
        seed: Decides which.
        field: Name of `count` in an error.

    Raises:
        DataError: If there are fewer, or an image cannot be read.
    """
    rows = torch.arange(len(folders.paths))
    if count is not None:
        rows = stratified(folders.targets, count, seed=seed, field=field)
    targets = folders.targets[rows]
    return Examples(
        inputs=read_images([folders.paths[row] for row in rows.tolist()], size=size),
        targets=targets,
        attribute=torch.zeros_like(targets),
        num_classes=len(folders.classes),
        num_attributes=1,
    )


def cifar_jpeg(
    root: Path,
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    size: int = 32,
    seed: int,
) -> Collection:
    """Read `train / CLASS / *.jpg` and `test / CLASS / *.jpg`; there is no attribute.

    Compressed images differ from those of `cifar10` by a few grey values, so errors of the two are
    not to be compared.

    Args:
        root: The folder of `train` and `test`, or one above it named `cifar10_jpeg`.
        num_train: Random training images, with the class shares of the whole; by default all. A
            smaller number takes a part of what a larger one takes.
        num_test: The same for test images.
        size: Height and width of the images.
        seed: Decides which images are taken; without a number, nothing.

    Returns:
        Inputs `(rows, 3, size, size)` uint8.

    Raises:
        DataError: If a folder is missing, an image is broken, or a number is out of range.
    """
    train = class_folders(SOURCE.locate(root, "train", "cifar10_jpeg/train"))
    test = class_folders(SOURCE.locate(root, "test", "cifar10_jpeg/test"), classes=train.classes)
    split = Split(
        train=folder_examples(train, num_train, size=size, seed=seed, field="num_train"),
        test=folder_examples(test, num_test, size=size, seed=seed, field="num_test"),
    )
    return Collection(
        split=split,
        classes=train.classes,
        attribute="all",
        values=("all",),
        channels=channels(split.train.inputs),
    )
