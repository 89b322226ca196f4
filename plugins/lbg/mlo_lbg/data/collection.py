"""What a data set hands over: its split and the names that its codes stand for."""

from dataclasses import dataclass

import torch

from mlo_lbg.data.dataset import DataError, Split


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Mean and standard deviation of red, green and blue over images in 0..1.

    Args:
        mean: Subtracted from each channel.
        std: Divided by afterwards.

    Raises:
        DataError: If a deviation is not positive.

    >>> Channels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).std[0]
    0.25
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not min(self.std) > 0:
            raise DataError(f"std: expected three numbers above 0, got {self.std}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Collection:
    """A split with its names: class c is `classes[c]`, attribute value a is `values[a]`.

    Args:
        split: Training and test examples.
        classes: Name of each class, in the order of its code.
        attribute: Name of the sensitive attribute.
        values: Name of each value of the attribute; with two values, 0 is the unprivileged one.
        channels: Statistics of the training images; `None` where the inputs are a table.

    Raises:
        DataError: If there is not exactly one name for each class and each value.

    >>> import torch
    >>> from mlo_lbg.data.dataset import Examples
    >>> codes = torch.tensor([0, 1])
    >>> two = Examples(
    ...     inputs=torch.zeros(2, 3), targets=codes, attribute=codes,
    ...     num_classes=2, num_attributes=2,
    ... )
    >>> collection = Collection(
    ...     split=Split(train=two, test=two), classes=("no", "yes"),
    ...     attribute="sex", values=("female", "male"), channels=None,
    ... )
    >>> collection.values[1]
    'male'
    """

    split: Split
    classes: tuple[str, ...]
    attribute: str
    values: tuple[str, ...]
    channels: Channels | None

    def __post_init__(self) -> None:
        train = self.split.train
        for field, names, count in (
            ("classes", self.classes, train.num_classes),
            ("values", self.values, train.num_attributes),
        ):
            if len(names) != count:
                raise DataError(f"{field}: expected {count} names, got {len(names)}")
        if (train.inputs.dtype == torch.uint8) != (self.channels is not None):
            raise DataError(
                f"channels: expected statistics exactly where inputs are uint8 images, "
                f"got {self.channels} for {train.inputs.dtype}"
            )
