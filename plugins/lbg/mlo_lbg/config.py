"""The schema of the LBG comparison: data, methods and the settings that tuning chose for each."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mlo.config import Config
from mlo.device import resolve
from mlo_lbg import problems, routing
from mlo_lbg.budget import Budget
from mlo_lbg.data.digits import Variant
from mlo_lbg.grouping import Grouping, MakeAssignments, clipped_rows, softmax_rows
from mlo_lbg.problems import GamLoss, SearchSettings
from mlo_lbg.routing import Routing, ValidationLoss
from mlo_lbg.training import Optimisation

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]

MethodName = Literal[
    "single",
    "bagging",
    "soft_mixture",
    "top_one_mixture",
    "kmeans",
    "lbg_hard",
    "lbg_soft",
    "lbg_random",
    "attribute",
    "single_tuned",
    "soft_mixture_tuned",
    "lbg_soft_tuned",
]

_ROUTINGS: dict[str, Routing] = {
    "hard": routing.HARD,
    "hard_mixture": routing.HARD_MIXTURE,
    "soft": routing.SOFT,
    "soft_mixture": routing.SOFT_MIXTURE,
}
_GAM_LOSSES: dict[str, GamLoss] = {
    "assigned": problems.assigned,
    "distributed": problems.distributed,
}
_ASSIGNMENTS: dict[str, MakeAssignments] = {"softmax": softmax_rows, "clipped": clipped_rows}
_OBJECTIVES: dict[str, ValidationLoss] = {
    "expected": routing.expected,
    "mixture": routing.mixture,
}


class DigitsConfig(Config):
    """Scikit-learn's handwritten digits with a hidden orientation."""

    variant: Variant = "turned_relabelled_exposed"


class TrainingConfig(Config):
    """AdamW with cosine decay."""

    learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-3
    epochs: Count = 60
    batch_size: Count = 64

    def optimisation(self) -> Optimisation:
        """Return the settings of the training loop."""
        return Optimisation(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            epochs=self.epochs,
            batch_size=self.batch_size,
        )


class SoftMixtureConfig(TrainingConfig):
    """A soft mixture of experts."""

    objective: Literal["expected", "mixture"] = "expected"

    def mixture_loss(self) -> ValidationLoss:
        """Return the loss that joins gate and experts."""
        return _OBJECTIVES[self.objective]


class TopOneMixtureConfig(TrainingConfig):
    """A jointly trained top-1 mixture whose confidence scales the logits."""

    balance: NonNegative = 0.01


class KMeansConfig(TrainingConfig):
    """Groups by k-means on the inputs."""

    restarts: Count = 10


class SearchConfig(Config):
    """The first phase of LBG."""

    routing: Literal["hard", "hard_mixture", "soft", "soft_mixture"] = "soft"
    gam_loss: Literal["assigned", "distributed"] = "assigned"
    assignments: Literal["softmax", "clipped"] = "softmax"
    gam_learning_rate: Positive = 3e-3
    experts_learning_rate: Positive = 1e-2
    weight_decay: NonNegative = 0.0
    assignments_learning_rate: Positive = 0.1
    gam_rate: Positive | None = 0.5
    experts_rate: Positive | None = 3.0
    product: Literal["autograd", "finite_difference"] = "autograd"
    rounds: Count = 600
    batch_size: Count = 64
    patience: Count | None = None


class LbgConfig(Config):
    """Learning by Grouping: search, then retrain."""

    search: SearchConfig = SearchConfig()
    retrain: TrainingConfig = TrainingConfig()

    def grouping(self, *, learned: bool) -> Grouping:
        """Return what LBG does; `learned=False` leaves C random."""
        return Grouping(
            search=self.settings(),
            budget=Budget(
                rounds=self.search.rounds,
                batch_size=self.search.batch_size,
                patience=self.search.patience,
            ),
            retrain=self.retrain.optimisation(),
            make_assignments=_ASSIGNMENTS[self.search.assignments],
            learned=learned,
        )

    def settings(self) -> SearchSettings:
        """Return how the three levels are optimised."""
        return SearchSettings(
            routing=_ROUTINGS[self.search.routing],
            gam_loss=_GAM_LOSSES[self.search.gam_loss],
            gam_learning_rate=self.search.gam_learning_rate,
            experts_learning_rate=self.search.experts_learning_rate,
            assignments_learning_rate=self.search.assignments_learning_rate,
            gam_rate=self.search.gam_rate,
            experts_rate=self.search.experts_rate,
            weight_decay=self.search.weight_decay,
            product=self.search.product,
        )


class ComparisonConfig(Config):
    """What `mlo run lbg` compares, and how each method is set.

    Attributes:
        data: Which digits.
        num_groups: K, the number of groups, experts and ensemble members.
        seeds: Number of seeds; they are 0, 1, 2, ...
        methods: What to compare, in the order of the table.
        checkpoint_every: Rounds from one checkpoint of a training run to the next.
    """

    data: DigitsConfig = DigitsConfig()
    num_groups: Annotated[int, Field(ge=1, le=64)] = 2
    seeds: Count = 5
    device: str = "auto"
    checkpoint_every: Count = 200
    methods: Annotated[tuple[MethodName, ...], Field(min_length=1)]
    single: TrainingConfig = TrainingConfig()
    bagging: TrainingConfig = TrainingConfig()
    soft_mixture: SoftMixtureConfig = SoftMixtureConfig()
    top_one_mixture: TopOneMixtureConfig = TopOneMixtureConfig()
    kmeans: KMeansConfig = KMeansConfig()
    lbg_hard: LbgConfig = LbgConfig()
    lbg_soft: LbgConfig = LbgConfig()
    lbg_random: LbgConfig = LbgConfig()
    attribute: TrainingConfig = TrainingConfig()
    single_tuned: TrainingConfig = TrainingConfig()
    soft_mixture_tuned: SoftMixtureConfig = SoftMixtureConfig()
    lbg_soft_tuned: LbgConfig = LbgConfig()

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: tuple[MethodName, ...]) -> tuple[MethodName, ...]:
        twice = [name for name in methods if methods.count(name) > 1]
        if twice:
            raise ValueError(f"expected each method once, got {twice[0]!r} twice")
        return methods

    @field_validator("device")
    @classmethod
    def _usable(cls, device: str) -> str:
        resolve(device)
        return device
