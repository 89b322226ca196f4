"""ImageNet (ILSVRC 2012): a random part of it at a chosen size."""

from pathlib import Path

from mlo_lbg.data.cifar_jpeg import folder_examples
from mlo_lbg.data.collection import Collection
from mlo_lbg.data.dataset import DataError, Split
from mlo_lbg.data.images import channels
from mlo_lbg.data.layout import Source, class_folders

SOURCE = Source(name="ImageNet", homepage="https://image-net.org/challenges/LSVRC/2012/")


def imagenet(
    root: Path,
    *,
    train_share: float = 0.1,
    test_share: float = 0.025,
    size: int = 64,
    seed: int,
) -> Collection:
    """Read random parts of `train / CLASS / *.JPEG` and `val / CLASS / *.JPEG`; no attribute.

    Both shares count images of the training folder, of which the paper uses 10% and 2.5%; the
    images for testing are drawn from `val`, so that the two never share one. Of the full data set
    that is 128,117 images for training and 32,029 of the 50,000 in `val`. All are kept in memory
    as bytes: 12 kB each at the default size, 150 kB at 224.

    Args:
        root: Folder with `train` and `val`.
        train_share: Images for training over images in `train`.
        test_share: Images for testing over images in `train`.
        size: Height and width of the images: the largest central square, resampled.
        seed: Decides which images are taken; each class keeps its share.

    Returns:
        Inputs `(rows, 3, size, size)` uint8; a class is named by its folder.

    Raises:
        DataError: If a folder is missing, an image is broken, or a share is out of range.

    References:
        Russakovsky et al. (2015), ImageNet large scale visual recognition challenge,
        arXiv:1409.0575.
    """
    for field, share in (("train_share", train_share), ("test_share", test_share)):
        if not 0 < share <= 1:
            raise DataError(f"{field}: expected a number above 0 and at most 1, got {share}")
    names = (("train", "imagenet/train"), ("val", "imagenet/val"))
    train_folder, test_folder = (SOURCE.locate(root, *pair) for pair in names)
    train = class_folders(train_folder)
    test = class_folders(test_folder, classes=train.classes)
    images = len(train.paths)
    split = Split(
        train=folder_examples(
            train, round(train_share * images), size=size, seed=seed, field="train_share"
        ),
        test=folder_examples(
            test, round(test_share * images), size=size, seed=seed, field="test_share"
        ),
    )
    return Collection(
        split=split,
        classes=train.classes,
        attribute="all",
        values=("all",),
        channels=channels(split.train.inputs),
    )
