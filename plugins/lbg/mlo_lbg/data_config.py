"""The schema of data sets: which one, where it lies, and what is asked of it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mlo.config import Config
from mlo.errors import ConfigError
from mlo_lbg.config import Count
from mlo_lbg.data.adult import adult
from mlo_lbg.data.augment import Augment
from mlo_lbg.data.celeba import celeba
from mlo_lbg.data.cifar import cifar10, cifar100
from mlo_lbg.data.cifar_jpeg import cifar_jpeg
from mlo_lbg.data.collection import Collection
from mlo_lbg.data.compas import compas
from mlo_lbg.data.dataset import Split
from mlo_lbg.data.digits import NUM_CLASSES, ORIENTATIONS, Variant, digits
from mlo_lbg.data.german import german
from mlo_lbg.data.ham10000 import ham10000
from mlo_lbg.data.imagenet import imagenet
from mlo_lbg.data.tabular import Shares

Share = Annotated[float, Field(gt=0, lt=1)]
Side = Annotated[int, Field(ge=8, le=1024)]


class DigitsConfig(Config):
    """Scikit-learn's handwritten digits with a hidden orientation."""

    name: Literal["digits"] = "digits"
    variant: Variant = "turned_relabelled_exposed"

    def load(self, seed: int) -> Collection:
        """Return the digits as this seed turns and splits them."""
        return Collection(
            split=digits(variant=self.variant, seed=seed),
            classes=tuple(str(digit) for digit in range(NUM_CLASSES)),
            attribute="orientation",
            values=ORIENTATIONS,
            channels=None,
        )


class Stored(Config):
    """Data that lie in a folder, in their official layout.

    Attributes:
        root: The folder.
    """

    root: Path | None = None

    def folder(self) -> Path:
        """Return the folder, or say that it must be given."""
        if self.root is None:
            raise ConfigError(
                "data.root: required, but not given; expected the folder that holds the data, as "
                "in --set data.root=DIR"
            )
        return self.root


class Downloadable(Stored):
    """Data that their maintainer offers for download.

    Attributes:
        download: Fetch them into the folder if they are not there.
    """

    download: bool = False


class SharesConfig(Config):
    """How many rows are for training and for testing."""

    train: Share = 0.7
    test: Share = 0.3

    def shares(self) -> Shares:
        """Return the shares that loaders take."""
        return Shares(train=self.train, test=self.test)


class AdultConfig(Downloadable):
    """Income of people of the 1994 census; `shares: null` is the official division."""

    name: Literal["adult"]
    attribute: Literal["sex", "race"] = "sex"
    shares: SharesConfig | None = SharesConfig()
    attribute_in_inputs: bool = False
    only_white_and_black: bool = False

    def load(self, seed: int) -> Collection:
        """Return the rows as this seed divides them."""
        return adult(
            self.folder(),
            attribute=self.attribute,
            only_white_and_black=self.only_white_and_black,
            shares=None if self.shares is None else self.shares.shares(),
            attribute_in_inputs=self.attribute_in_inputs,
            download=self.download,
            seed=seed,
        )


class CompasConfig(Downloadable):
    """Recidivism within two years."""

    name: Literal["compas"]
    attribute: Literal["sex", "race"] = "sex"
    shares: SharesConfig = SharesConfig()
    attribute_in_inputs: bool = False

    def load(self, seed: int) -> Collection:
        """Return the rows as this seed divides them."""
        return compas(
            self.folder(),
            attribute=self.attribute,
            shares=self.shares.shares(),
            attribute_in_inputs=self.attribute_in_inputs,
            download=self.download,
            seed=seed,
        )


class GermanConfig(Downloadable):
    """Good and bad credits of a bank."""

    name: Literal["german"]
    attribute: Literal["sex"] = "sex"
    shares: SharesConfig = SharesConfig()
    attribute_in_inputs: bool = False

    def load(self, seed: int) -> Collection:
        """Return the rows as this seed divides them."""
        return german(
            self.folder(),
            attribute=self.attribute,
            shares=self.shares.shares(),
            attribute_in_inputs=self.attribute_in_inputs,
            download=self.download,
            seed=seed,
        )


class AugmentConfig(Config):
    """What training does to each batch of images; the cut-out square has the mean colour."""

    padding: Annotated[int, Field(ge=0)] = 4
    flip: bool = True
    cutout: Annotated[int, Field(ge=0)] = 0


class Images(Config):
    """What all image sets have in common.

    Attributes:
        augment: What training does to each batch; null for nothing.
    """

    augment: AugmentConfig | None = AugmentConfig()

    def augmented(self, collection: Collection) -> Collection:
        """Return the collection whose training examples are augmented."""
        if self.augment is None or collection.channels is None:
            return collection
        red, green, blue = (round(255 * mean) for mean in collection.channels.mean)
        augment = Augment(
            padding=self.augment.padding,
            flip=self.augment.flip,
            cutout=self.augment.cutout,
            fill=(red, green, blue),
        )
        split = collection.split
        return replace(
            collection, split=Split(train=replace(split.train, augment=augment), test=split.test)
        )


class Cifar10Config(Downloadable, Images):
    """CIFAR-10; every image has the same attribute value."""

    name: Literal["cifar10"]
    num_train: Count | None = None
    num_test: Count | None = None

    def load(self, seed: int) -> Collection:
        """Return the images, or as many as asked for, drawn by the seed."""
        return self.augmented(
            cifar10(
                self.folder(),
                num_train=self.num_train,
                num_test=self.num_test,
                download=self.download,
                seed=seed,
            )
        )


class Cifar100Config(Downloadable, Images):
    """CIFAR-100; the attribute may be its superclass."""

    name: Literal["cifar100"]
    attribute: Literal["all", "superclass"] = "all"
    num_train: Count | None = None
    num_test: Count | None = None

    def load(self, seed: int) -> Collection:
        """Return the images, or as many as asked for, drawn by the seed."""
        return self.augmented(
            cifar100(
                self.folder(),
                attribute=self.attribute,
                num_train=self.num_train,
                num_test=self.num_test,
                download=self.download,
                seed=seed,
            )
        )


class CifarJpegConfig(Stored, Images):
    """CIFAR-10 as JPEG, one folder for each class: not comparable with published errors."""

    name: Literal["cifar10_jpeg"]
    num_train: Count | None = None
    num_test: Count | None = None
    size: Side = 32

    def load(self, seed: int) -> Collection:
        """Return the images, or as many as asked for, drawn by the seed."""
        return self.augmented(
            cifar_jpeg(
                self.folder(),
                num_train=self.num_train,
                num_test=self.num_test,
                size=self.size,
                seed=seed,
            )
        )


class ImageNetConfig(Stored, Images):
    """A part of ImageNet, drawn by the seed."""

    name: Literal["imagenet"]
    train_share: Share = 0.1
    test_share: Share = 0.025
    size: Side = 224

    def load(self, seed: int) -> Collection:
        """Return the images that this seed draws."""
        return self.augmented(
            imagenet(
                self.folder(),
                train_share=self.train_share,
                test_share=self.test_share,
                size=self.size,
                seed=seed,
            )
        )


class CelebaConfig(Downloadable, Images):
    """Faces, any of whose 40 attributes may be target or sensitive."""

    name: Literal["celeba"]
    target: str = "Attractive"
    attribute: str = "Male"
    num_images: Count = 10_000
    size: Side = 64

    def load(self, seed: int) -> Collection:
        """Return the images that this seed draws."""
        return self.augmented(
            celeba(
                self.folder(),
                target=self.target,
                attribute=self.attribute,
                num_images=self.num_images,
                size=self.size,
                download=self.download,
                seed=seed,
            )
        )


class Ham10000Config(Stored, Images):
    """Skin lesions of seven kinds, also known as ISIC 2018 task 3."""

    name: Literal["ham10000"]
    attribute: Literal["sex"] = "sex"
    unknown: Literal["drop", "own value"] = "drop"
    test_share: Share = 0.2
    size: Side = 64

    def load(self, seed: int) -> Collection:
        """Return the images as this seed divides the lesions."""
        return self.augmented(
            ham10000(
                self.folder(),
                attribute=self.attribute,
                unknown=self.unknown,
                test_share=self.test_share,
                size=self.size,
                seed=seed,
            )
        )


DataConfig = Annotated[
    DigitsConfig
    | AdultConfig
    | CompasConfig
    | GermanConfig
    | Cifar10Config
    | Cifar100Config
    | CifarJpegConfig
    | ImageNetConfig
    | CelebaConfig
    | Ham10000Config,
    Field(discriminator="name"),
]
