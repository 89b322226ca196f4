"""Learning by Grouping with fairness sought, and the penalised network that it has to beat."""

from typing import Literal

from mlo_lbg.budget import Budget
from mlo_lbg.config import Count, NonNegative, Positive, SearchConfig, TrainingConfig, settings_of
from mlo_lbg.fair.fair_grouping import (
    FairGrouping,
    Retrain,
    learn_fair_grouping,
    separate_experts,
    shared_network,
)
from mlo_lbg.fair.objectives import (
    Gaps,
    Objective,
    cross_entropy,
    demographic_parity,
    equalized_odds,
    group_dro,
    odds_gaps,
    penalised,
    selection_gaps,
)
from mlo_lbg.fair.offsets import OffsetSettings
from mlo_lbg.fair.penalty import penalised_network
from mlo_lbg.fair.problems import FairSettings
from mlo_lbg.methods.task import Learned, Row, Task

_RETRAIN: dict[str, Retrain] = {"shared": shared_network, "separate": separate_experts}
_GAPS: dict[str, Gaps] = {"equalized_odds": odds_gaps, "demographic_parity": selection_gaps}


class FairLbg(Row):
    """Search by a fair objective, retrain, and refit one threshold for each group.

    Attributes:
        objective: What the assignments minimise on validation examples.
        weight: Of the squared gaps beside the cross-entropy; not for the first two objectives.
        upper_balance: Weight of the entropy of the mean group probabilities.
        error_budget: How far refitting may raise the training error: the dial of the frontier.
        learned: False leaves C random: the control.
    """

    kind: Literal["fair_lbg"] = "fair_lbg"
    objective: Literal["cross_entropy", "group_dro", "equalized_odds", "demographic_parity"] = (
        "equalized_odds"
    )
    weight: NonNegative = 3.0
    upper_balance: NonNegative = 0.5
    offsets_learning_rate: Positive = 0.05
    error_budget: NonNegative = 0.004
    validation_batch_size: Count = 1024
    experts: Literal["shared", "separate"] = "shared"
    learned: bool = True
    search: SearchConfig = SearchConfig(
        routing="soft_mixture",
        gam_loss="distributed",
        gam_learning_rate=1e-2,
        experts_rate=0.1,
        rounds=300,
        batch_size=512,
    )
    retrain: TrainingConfig = TrainingConfig(
        learning_rate=3e-3, weight_decay=0.1, epochs=8, batch_size=256
    )

    def train(self, task: Task) -> Learned:
        """Search, retrain, refit."""
        return learn_fair_grouping(
            task.train,
            task.architecture,
            FairGrouping(
                search=settings_of(self.search),
                fair=FairSettings(
                    objective=self._objective(),
                    balance=self.upper_balance,
                    offsets_learning_rate=self.offsets_learning_rate,
                ),
                budget=Budget(rounds=self.search.rounds, batch_size=self.search.batch_size),
                validation_batch_size=self.validation_batch_size,
                retrain=_RETRAIN[self.experts],
                optimisation=self.retrain.optimisation(),
                offsets=OffsetSettings(error_budget=self.error_budget),
                learned=self.learned,
            ),
            seed=task.seed,
            trainer=task.trainer,
            observe=task.observe,
        )

    def _objective(self) -> Objective:
        if self.objective == "cross_entropy":
            return cross_entropy
        if self.objective == "group_dro":
            return group_dro
        gaps = equalized_odds if self.objective == "equalized_odds" else demographic_parity
        return penalised(gaps, weight=self.weight)


class Penalised(Row, TrainingConfig):
    """One network with a penalty on the gaps of its soft predictions."""

    kind: Literal["penalised"] = "penalised"
    parity: Literal["equalized_odds", "demographic_parity"] = "equalized_odds"
    weight: NonNegative = 0.5
    dual_rate: NonNegative = 0.0
    temperature: Positive = 0.4

    def train(self, task: Task) -> Learned:
        """Train network and multipliers together."""
        return task.trained(
            penalised_network,
            self.optimisation(),
            weight=self.weight,
            dual_rate=self.dual_rate,
            temperature=self.temperature,
            gaps=_GAPS[self.parity],
        )
