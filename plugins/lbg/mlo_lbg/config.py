"""The schema of training and of the search for groups."""

from typing import Annotated, Literal

from pydantic import Field

from mlo.config import Config
from mlo_lbg import problems, routing
from mlo_lbg.budget import Budget
from mlo_lbg.grouping import Grouping, MakeAssignments, clipped_rows, softmax_rows
from mlo_lbg.problems import GamLoss, SearchSettings
from mlo_lbg.remedies import Remedy, centred, normalised, router_bias
from mlo_lbg.routing import Routing
from mlo_lbg.training import Optimisation

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]

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
_REMEDIES: dict[str, Remedy | None] = {
    "none": None,
    "normalised": normalised(),
    "centred": centred(),
    "router_bias": router_bias(),
}


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
    remedy: Literal["none", "normalised", "centred", "router_bias"] = "none"
    upper_balance: NonNegative = 0.0


class LbgConfig(Config):
    """Learning by Grouping: search, then retrain."""

    search: SearchConfig = SearchConfig()
    retrain: TrainingConfig = TrainingConfig()

    def grouping(self, *, learned: bool) -> Grouping:
        """Return what LBG does; `learned=False` leaves C random."""
        return Grouping(
            search=settings_of(self.search),
            budget=Budget(
                rounds=self.search.rounds,
                batch_size=self.search.batch_size,
                patience=self.search.patience,
            ),
            retrain=self.retrain.optimisation(),
            make_assignments=_ASSIGNMENTS[self.search.assignments],
            learned=learned,
        )


def settings_of(search: SearchConfig) -> SearchSettings:
    """Return how the three levels are optimised."""
    return SearchSettings(
        routing=_ROUTINGS[search.routing],
        gam_loss=_GAM_LOSSES[search.gam_loss],
        gam_learning_rate=search.gam_learning_rate,
        experts_learning_rate=search.experts_learning_rate,
        assignments_learning_rate=search.assignments_learning_rate,
        gam_rate=search.gam_rate,
        experts_rate=search.experts_rate,
        weight_decay=search.weight_decay,
        upper_balance=search.upper_balance,
        remedy=_REMEDIES[search.remedy],
        product=search.product,
    )
