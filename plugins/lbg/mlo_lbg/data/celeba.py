"""CelebA: faces of celebrities with forty yes-or-no attributes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import CelebA

from mlo.errors import nearest
from mlo_lbg.data.collection import Collection
from mlo_lbg.data.dataset import DataError, Examples, Split
from mlo_lbg.data.images import channels, read_images
from mlo_lbg.data.layout import Source
from mlo_lbg.data.sampling import stratified
from mlo_lbg.data.tabular import shown

SOURCE = Source(name="CelebA", homepage="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html")
PARTS = ("0", "1", "2")
SHARES = (0.7, 0.15, 0.15)
"""Of training, validation and test images, in the order of `PARTS`."""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{str(path)!r}: expected a text file ({type(error).__name__})") from error


def _attributes(path: Path, wanted: dict[str, str]) -> tuple[list[str], Tensor]:
    """File names and `(images, wanted)` int64 in 0/1 of the attributes that `wanted` names.

    Args:
        path: The official list: a count, forty names, then one line an image.
        wanted: Name of an attribute under the field that asks for it.
    """
    lines = _lines(path)
    names = lines[1].split() if len(lines) > 1 else []
    for field, name in wanted.items():
        if name not in names:
            raise DataError(
                f"{field}: expected one of the {len(names)} attributes in {str(path)!r}, "
                f"got {name!r}" + nearest(name, names)
            )
    places = [names.index(name) + 1 for name in wanted.values()]
    files, rows = [], []
    for number, line in enumerate(lines[2:], start=3):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != len(names) + 1 or any(
            fields[place] not in ("1", "-1") for place in places
        ):
            raise DataError(
                f"{str(path)!r}: line {number}: expected a file name and {len(names)} times 1 or "
                f"-1, got {shown(line)}"
            )
        files.append(fields[0])
        rows.append([int(fields[place] == "1") for place in places])
    return files, torch.tensor(rows, dtype=torch.int64).reshape(-1, len(places))


def _parts(path: Path, files: Sequence[str]) -> Tensor:
    """`(files,)` int64 official part of each file: 0 training, 1 validation, 2 test."""
    part: dict[str, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in PARTS:
            raise DataError(
                f"{str(path)!r}: line {number}: expected a file name and 0, 1 or 2, "
                f"got {shown(line)}"
            )
        part[fields[0]] = int(fields[1])
    for file in files:
        if file not in part:
            raise DataError(f"{str(path)!r}: expected a line for {shown(file)}, found none")
    return torch.tensor([part[file] for file in files], dtype=torch.int64)


def celeba(
    root: Path,
    *,
    target: str = "Attractive",
    attribute: str = "Male",
    num_images: int = 10_000,
    size: int = 64,
    download: bool = False,
    seed: int,
) -> Collection:
    """Read a random part of CelebA: 85% of `num_images` for training and 15% for testing.

    70% are drawn from the official training part, 15% from validation and 15% from test, so that
    nobody is in both training and test images; within each, target and attribute keep their joint
    shares. A search divides training examples itself, so validation images are added to them:
    they come last, the final 15/85 of `split.train`.

    Args:
        root: Folder with `img_align_celeba`, `list_attr_celeba.txt` and `list_eval_partition.txt`,
            or with a folder `celeba` of them.
        target: What is predicted: one of the forty attributes.
        attribute: The sensitive one: another of them. Code 0 is its absence.
        num_images: How many are drawn altogether.
        size: Height and width of the images: the central square, resampled.
        download: Let torchvision fetch the data set to `root / celeba` if it is not there; it
            needs the package `gdown` for that.
        seed: Decides which images are drawn.

    Returns:
        Inputs `(rows, 3, size, size)` uint8; class 1 is the presence of the target.

    Raises:
        DataError: If a file is missing or broken, or an attribute is unknown.

    References:
        Liu et al. (2015), Deep learning face attributes in the wild, arXiv:1411.7766.
    """
    if target == attribute:
        raise DataError(f"attribute: expected another attribute than the target, got {attribute!r}")
    if download:
        try:
            CelebA(str(root), split="all", download=True)
        except (OSError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"download: cannot fetch CelebA ({reason})") from error
    attr_list, partition, folder = (
        SOURCE.locate(root, name, f"celeba/{name}")
        for name in ("list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba")
    )
    files, codes = _attributes(attr_list, {"target": target, "attribute": attribute})
    parts = _parts(partition, files)
    joint = 2 * codes[:, 0] + codes[:, 1]
    drawn = []
    for part, share in enumerate(SHARES):
        rows = (parts == part).nonzero().flatten()
        count = round(share * num_images)
        drawn.append(rows[stratified(joint[rows], count, seed=seed + part, field="num_images")])

    def examples(rows: Tensor) -> Examples:
        return Examples(
            inputs=read_images([folder / files[row] for row in rows.tolist()], size=size),
            targets=codes[rows, 0],
            attribute=codes[rows, 1],
            num_classes=2,
            num_attributes=2,
        )

    split = Split(train=examples(torch.cat(drawn[:2])), test=examples(drawn[2]))
    return Collection(
        split=split,
        classes=(f"not {target}", target),
        attribute=attribute,
        values=(f"not {attribute}", attribute),
        channels=channels(split.train.inputs),
    )
