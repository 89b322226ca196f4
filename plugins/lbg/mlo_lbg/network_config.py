"""The schema of networks: a family, from which gate, experts and baseline are built."""

from typing import Annotated, Literal

from pydantic import Field

from mlo.config import Config
from mlo_lbg.architecture import Architecture, from_family, linear_experts, perceptrons
from mlo_lbg.config import Count
from mlo_lbg.data.collection import Collection
from mlo_lbg.data.dataset import DataError
from mlo_lbg.models.families import cifar_resnets, resnets, swins, t2t_vits
from mlo_lbg.models.sized import Family


class LinearConfig(Config):
    """Linear gate and experts, against perceptrons of their size."""

    family: Literal["linear"] = "linear"

    def build(self, collection: Collection, num_groups: int) -> Architecture:
        """Return the networks for these data."""
        return linear_experts(
            inputs=_features(collection),
            classes=len(collection.classes),
            num_groups=num_groups,
        )


class PerceptronConfig(Config):
    """Perceptrons with hidden layers."""

    family: Literal["perceptron"]
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (64,)
    gate_hidden: tuple[Count, ...] = ()
    budget: Count | None = None

    def build(self, collection: Collection, num_groups: int) -> Architecture:
        """Return the networks for these data."""
        return perceptrons(
            inputs=_features(collection),
            classes=len(collection.classes),
            num_groups=num_groups,
            hidden=self.hidden,
            gate_hidden=self.gate_hidden,
            budget=self.budget,
        )


class CifarResNetConfig(Config):
    """ResNets for small images."""

    family: Literal["cifar_resnet"]
    depth: Count = 56
    width: Count = 16
    gate_width: Count | None = None

    def build(self, collection: Collection, num_groups: int) -> Architecture:
        """Return the networks for these data."""
        family = cifar_resnets(depth=self.depth, width=self.width, gate_width=self.gate_width)
        return _of_images(family, collection, num_groups)


class ResNetConfig(Config):
    """ResNet-18 and shallower forms of it."""

    family: Literal["resnet18"]
    pretrained: bool = False

    def build(self, collection: Collection, num_groups: int) -> Architecture:
        """Return the networks for these data."""
        return _of_images(resnets(pretrained=self.pretrained), collection, num_groups)


class SwinConfig(Config):
    """Swin-T and shallower forms of it."""

    family: Literal["swin_t"]
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.2
    pretrained: bool = False

    def build(self, collection: Collection, num_groups: int) -> Architecture:
        """Return the networks for these data."""
        family = swins(stochastic_depth=self.stochastic_depth, pretrained=self.pretrained)
        return _of_images(family, collection, num_groups)


class T2tVitConfig(Config):
    """T2T-ViT-14 and shallower forms of it."""

    family: Literal["t2t_vit_14"]
    image_size: Annotated[int, Field(ge=16)] = 224

    def build(self, collection: Collection, num_groups: int) -> Architecture:
        """Return the networks for these data."""
        return _of_images(t2t_vits(image_size=self.image_size), collection, num_groups)


NetworkConfig = Annotated[
    LinearConfig | PerceptronConfig | CifarResNetConfig | ResNetConfig | SwinConfig | T2tVitConfig,
    Field(discriminator="family"),
]


def _features(collection: Collection) -> int:
    shape = collection.split.train.inputs.shape[1:]
    if len(shape) != 1:
        raise DataError(
            f"networks.family: expected a family for images of shape {tuple(shape)}, "
            "such as 'cifar_resnet', got one for tables"
        )
    return int(shape[0])


def _of_images(family: Family, collection: Collection, num_groups: int) -> Architecture:
    if collection.channels is None:
        raise DataError(
            "networks.family: expected a family for tables, such as 'perceptron', got one for "
            "images"
        )
    return from_family(
        family,
        classes=len(collection.classes),
        num_groups=num_groups,
        channels=collection.channels,
    )
