"""What users would pick instead of LBG to treat attribute values alike."""

from typing import Annotated, Literal

from pydantic import Field

from mlo_lbg.baselines.fair.group_dro import group_dro
from mlo_lbg.baselines.fair.jtt import jtt
from mlo_lbg.baselines.fair.parity import Parity
from mlo_lbg.baselines.fair.post_processing import post_processing
from mlo_lbg.baselines.fair.reductions import reductions
from mlo_lbg.baselines.fair.reweighting import Weighting, balanced, independent, reweighting
from mlo_lbg.baselines.fair.under_sampling import under_sampling
from mlo_lbg.config import Count, NonNegative, Positive, TrainingConfig
from mlo_lbg.methods.task import Learned, Row, Task

ParityName = Literal["equalized_odds", "demographic_parity"]
_WEIGHTINGS: dict[str, Weighting] = {"independent": independent, "balanced": balanced}


class UnderSampling(Row, TrainingConfig):
    """One network on as many examples of every class and attribute value."""

    kind: Literal["under_sampling"] = "under_sampling"

    def train(self, task: Task) -> Learned:
        """Cut every cell to the smallest one, then train."""
        return task.trained(under_sampling, self.optimisation())


class Reweighting(Row, TrainingConfig):
    """One network on weighted examples."""

    kind: Literal["reweighting"] = "reweighting"
    weighting: Literal["independent", "balanced"] = "independent"

    def train(self, task: Task) -> Learned:
        """Weigh examples by class and attribute, then train."""
        return task.trained(reweighting, self.optimisation(), weighting=_WEIGHTINGS[self.weighting])


class GroupDro(Row, TrainingConfig):
    """One network on the worst cell of class and attribute."""

    kind: Literal["group_dro"] = "group_dro"
    step: Positive = 0.01
    adjustment: NonNegative = 0.0

    def train(self, task: Task) -> Learned:
        """Train network and weights of the cells together."""
        return task.trained(
            group_dro, self.optimisation(), step=self.step, adjustment=self.adjustment
        )


class Jtt(Row, TrainingConfig):
    """One network that is trained twice, the second time on what the first got wrong."""

    kind: Literal["jtt"] = "jtt"
    first_epochs: Count = 2
    upweight: Annotated[float, Field(ge=1)] = 3.0

    def train(self, task: Task) -> Learned:
        """Find the errors of a short training, weigh them, train."""
        return task.trained(
            jtt, self.optimisation(), first_epochs=self.first_epochs, upweight=self.upweight
        )


class ThresholdOptimizer(Row, TrainingConfig):
    """One network with thresholds for each attribute value, which must be told at test."""

    kind: Literal["threshold_optimizer"] = "threshold_optimizer"
    parity: ParityName = "equalized_odds"
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None

    def train(self, task: Task) -> Learned:
        """Train, then choose thresholds."""
        return task.trained(
            post_processing, self.optimisation(), parity=Parity(self.parity), held_out=self.held_out
        )


class ExponentiatedGradient(Row, TrainingConfig):
    """A random choice among networks, each trained under other weights."""

    kind: Literal["exponentiated_gradient"] = "exponentiated_gradient"
    parity: ParityName = "equalized_odds"
    bound: Positive = 0.01
    max_iter: Count = 10

    def train(self, task: Task) -> Learned:
        """Play the game between weights and networks."""
        return task.trained(
            reductions,
            self.optimisation(),
            parity=Parity(self.parity),
            bound=self.bound,
            max_iter=self.max_iter,
        )
