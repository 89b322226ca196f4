"""Handwritten digits with a hidden orientation: real scans in which groups matter, in a second."""

from typing import Literal, get_args

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from mlo.errors import nearest
from mlo_lbg.data.dataset import DataError, Examples, Split

Variant = Literal["turned_relabelled_exposed", "turned_exposed", "turned"]

NUM_TRAIN = 1257
NUM_PIXELS = 64
NUM_CLASSES = 10
ORIENTATIONS = ("upright", "turned")
"""Name of each attribute value."""


def _random_share(share: float, size: int, generator: torch.Generator) -> Tensor:
    """`(size,)` bool, true for exactly `round(share * size)` random rows."""
    return torch.randperm(size, generator=generator) < round(share * size)


def digits(*, variant: Variant = "turned_relabelled_exposed", seed: int) -> Split:
    """Split scikit-learn's 1,797 scanned digits in 1,257 and 540; give them a hidden orientation.

    A random quarter is turned by 90 degrees counter-clockwise; that orientation is the attribute
    (0 upright, 1 turned). The variant says what else happens, in the order of its name:
    *relabelled*: the label of a turned digit d becomes 9 - d, so one linear classifier cannot serve
    both orientations; *exposed*: a random half, independent of orientation, is over-exposed
    (x = 0.6 x + 0.4 for grey values in [0, 1]), which is the most visible difference between two
    scans and has nothing to do with the labels. `turned` is a control in which groups are hardly
    needed. Inputs are grey values minus the per-pixel training mean, times 2.

    The scans are reshuffled by the seed without stratifying by class (the ten classes are nearly
    equal in size); the quarter and the half are exact in train and in test. All variants of one
    seed have the same scans in the same rows, turned and exposed alike.

    Args:
        variant: What is done to the scans.
        seed: Decides the split and the transformations; the same seed gives the same tensors.

    Returns:
        Inputs `(examples, 64)` float32, row-major 8 x 8 grey values.

    Raises:
        DataError: If the variant is unknown.

    References:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.

    >>> split = digits(seed=0)
    >>> split.train.inputs.shape, len(split.test), float(split.test.attribute.float().mean())
    (torch.Size([1257, 64]), 540, 0.25)
    """
    if variant not in get_args(Variant):
        raise DataError(
            f"variant: expected one of {', '.join(get_args(Variant))}, got {variant!r}"
            + nearest(variant, get_args(Variant))
        )
    loaded = load_digits()
    images = torch.from_numpy(loaded.images.astype(np.float32)) / 16
    labels = torch.from_numpy(loaded.target.astype(np.int64))

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    images, labels = images[order], labels[order]
    sizes = (NUM_TRAIN, len(labels) - NUM_TRAIN)
    # Drawn for every variant, so that variants of one seed differ in nothing else.
    turned = torch.cat([_random_share(0.25, size, generator) for size in sizes])
    exposed = torch.cat([_random_share(0.5, size, generator) for size in sizes])

    images = torch.where(turned[:, None, None], torch.rot90(images, dims=(1, 2)), images)
    if variant == "turned_relabelled_exposed":
        labels = torch.where(turned, NUM_CLASSES - 1 - labels, labels)
    if variant != "turned":
        images = torch.where(exposed[:, None, None], 0.6 * images + 0.4, images)
    inputs = images.flatten(1)
    everything = Examples(
        inputs=2 * (inputs - inputs[:NUM_TRAIN].mean(0)),
        targets=labels,
        attribute=turned.to(torch.int64),
        num_classes=NUM_CLASSES,
        num_attributes=len(ORIENTATIONS),
    )
    rows = torch.arange(len(labels))
    return Split(
        train=everything.subset(rows[:NUM_TRAIN]), test=everything.subset(rows[NUM_TRAIN:])
    )
