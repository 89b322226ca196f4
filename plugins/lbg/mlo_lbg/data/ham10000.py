"""HAM10000 (ISIC 2018, task 3): seven kinds of pigmented skin lesions."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mlo.errors import nearest
from mlo_lbg.data.collection import Collection
from mlo_lbg.data.dataset import DataError, Examples, Split
from mlo_lbg.data.images import channels, read_images
from mlo_lbg.data.layout import Source
from mlo_lbg.data.sampling import stratified
from mlo_lbg.data.tabular import Table, read_table, shown

Attribute = Literal["sex"]
Unknown = Literal["drop", "own value"]

SOURCE = Source(name="HAM10000", homepage="https://doi.org/10.7910/DVN/DBW86T")
METADATA = "HAM10000_metadata.csv"
IMAGE_FOLDERS = (
    "HAM10000_images",
    "HAM10000_images_part_1",
    "HAM10000_images_part_2",
    "ISIC2018_Task3_Training_Input",
)
DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
SEXES = ("female", "male", "unknown")
UNKNOWN = ("unknown", "")
"""How the metadata write that the sex is not known."""


def _image_paths(folder: Path, images: np.ndarray) -> list[Path]:
    found = {
        path.stem: path
        for name in IMAGE_FOLDERS
        if (folder / name).is_dir()
        for path in sorted((folder / name).glob("*.jpg"))
    }
    for image in images:
        if image not in found:
            raise DataError(
                f"root: expected the image {shown(image + '.jpg')} in {IMAGE_FOLDERS[0]!r} or "
                f"another folder of images in {str(folder)!r}, which is not there; "
                f"get it from {SOURCE.homepage}"
            )
    return [found[image] for image in images]


def _test_rows(table: Table, targets: Tensor, share: float, seed: int) -> Tensor:
    """`(rows,)` bool, true for all rows of random lesions that make up `share` of the lesions."""
    lesions, first, lesion = np.unique(
        table.text("lesion_id").astype(str), return_index=True, return_inverse=True
    )
    count = round(share * len(lesions))
    if not 0 < count < len(lesions):
        raise DataError(
            f"test_share: expected a share that leaves lesions for both parts, "
            f"got {share} of {len(lesions)} lesions"
        )
    kinds = targets[torch.from_numpy(first)]
    chosen = torch.zeros(len(lesions), dtype=torch.bool)
    chosen[stratified(kinds, count, seed=seed, field="test_share")] = True
    return chosen[torch.from_numpy(lesion.reshape(-1))]


def ham10000(
    root: Path,
    *,
    attribute: Attribute = "sex",
    unknown: Unknown = "drop",
    test_share: float = 0.2,
    size: int = 64,
    seed: int,
) -> Collection:
    """Read HAM10000 divided by lesion: photographs of one lesion are all in the same part.

    Lesions are drawn within each diagnosis. As lesions have different numbers of photographs, the
    share of images for testing is near `test_share`, not equal to it.

    Args:
        root: Folder with `HAM10000_metadata.csv` and a folder of images, or with a folder
            `ham10000` of them.
        attribute: *sex* (0 female, 1 male).
        unknown: What becomes of images of a patient of unknown sex: *drop*, or *own value* (code
            2).
        test_share: Share of the lesions whose images are for testing.
        size: Height and width of the images: the largest central square, resampled.
        seed: Decides the division.

    Returns:
        Inputs `(rows, 3, size, size)` uint8; classes in alphabetical order of their short names.

    Raises:
        DataError: If a file is missing or broken, or a setting is unknown.

    References:
        Tschandl, Rosendahl and Kittler (2018), The HAM10000 dataset, arXiv:1803.10417.
    """
    for field, value, valid in (
        ("attribute", attribute, get_args(Attribute)),
        ("unknown", unknown, get_args(Unknown)),
    ):
        if value not in valid:
            raise DataError(
                f"{field}: expected one of {', '.join(map(repr, valid))}, got {value!r}"
                + nearest(value, valid)
            )
    metadata = SOURCE.locate(root, METADATA, f"ham10000/{METADATA}")
    table = read_table(metadata)
    if unknown == "drop":
        table = table.where(~np.isin(table.text("sex"), UNKNOWN))
    values = SEXES[:2] if unknown == "drop" else SEXES
    meaning = {"female": 0, "male": 1, **dict.fromkeys(UNKNOWN, 2)}
    targets = torch.from_numpy(table.codes("dx", {name: i for i, name in enumerate(DIAGNOSES)}))
    sexes = torch.from_numpy(table.codes("sex", meaning))
    is_test = _test_rows(table, targets, test_share, seed)
    paths = _image_paths(metadata.parent, table.text("image_id"))
    everything = Examples(
        inputs=read_images(paths, size=size),
        targets=targets,
        attribute=sexes,
        num_classes=len(DIAGNOSES),
        num_attributes=len(values),
    )
    split = Split(train=everything.subset(~is_test), test=everything.subset(is_test))
    return Collection(
        split=split,
        classes=DIAGNOSES,
        attribute=attribute,
        values=values,
        channels=channels(split.train.inputs),
    )
