"""The schema of a comparison: data, networks, and the methods that make its rows."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from mlo.config import Config
from mlo.device import resolve
from mlo.errors import nearest
from mlo_lbg.config import Count
from mlo_lbg.data_config import DataConfig, DigitsConfig
from mlo_lbg.methods.fair import (
    ExponentiatedGradient,
    GroupDro,
    Jtt,
    Reweighting,
    ThresholdOptimizer,
    UnderSampling,
)
from mlo_lbg.methods.fair_lbg import FairLbg, Penalised
from mlo_lbg.methods.lbg import Lbg
from mlo_lbg.methods.mixtures import DeepMoe, NoisyTopK, SoftMixture, TopOneMixture
from mlo_lbg.methods.plain import Bagging, ByAttribute, KMeans, Single
from mlo_lbg.network_config import LinearConfig, NetworkConfig

RowConfig = Annotated[
    Single
    | Bagging
    | KMeans
    | ByAttribute
    | SoftMixture
    | TopOneMixture
    | NoisyTopK
    | DeepMoe
    | Lbg
    | UnderSampling
    | Reweighting
    | GroupDro
    | Jtt
    | ThresholdOptimizer
    | ExponentiatedGradient
    | FairLbg
    | Penalised,
    Field(discriminator="kind"),
]


class ComparisonConfig(Config):
    """What a comparison trains, and how each method is set.

    Attributes:
        title: Heading of the table.
        data: Which examples.
        networks: Which networks every method builds from.
        num_groups: K, the number of groups, experts and ensemble members.
        seeds: Number of seeds; they are 0, 1, 2, ...
        methods: Which rows, in the order of the table.
        rows: How each method is set, by its name.
        frontier: Whether error is also drawn against DEO.
        reference: The row that all others are compared with seed by seed.
        checkpoint_every: Rounds from one checkpoint of a training run to the next.
    """

    title: str = "digits"
    data: DataConfig = DigitsConfig()
    networks: NetworkConfig = LinearConfig()
    num_groups: Annotated[int, Field(ge=1, le=64)] = 2
    seeds: Count = 5
    device: str = "auto"
    checkpoint_every: Count = 200
    frontier: bool = False
    reference: str = "single"
    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: dict[str, RowConfig]

    def num_groups_of(self, method: str) -> int:
        """Return K of a row."""
        return self.rows[method].num_groups or self.num_groups

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name in methods if methods.count(name) > 1]
        if twice:
            raise ValueError(f"expected each method once, got {twice[0]!r} twice")
        return methods

    @field_validator("device")
    @classmethod
    def _usable(cls, device: str) -> str:
        resolve(device)
        return device

    @model_validator(mode="after")
    def _known(self) -> "ComparisonConfig":
        for name in self.methods:
            if name not in self.rows:
                raise ValueError(
                    f"methods: expected names of rows ({', '.join(self.rows)}), got {name!r}"
                    + nearest(name, self.rows)
                )
        return self
