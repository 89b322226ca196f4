"""Learning by Grouping as a row of a comparison."""

from typing import Literal

from mlo_lbg.config import Count, LbgConfig
from mlo_lbg.grouping import learn_by_grouping
from mlo_lbg.methods.task import Learned, Row, Task
from mlo_lbg.predictors import TopK


class Lbg(Row, LbgConfig):
    """Search for groups, then retrain experts.

    Attributes:
        learned: False leaves C random: the control.
        top: Experts that answer for an example, at most K.
    """

    kind: Literal["lbg"] = "lbg"
    learned: bool = True
    top: Count = 1

    def train(self, task: Task) -> Learned:
        """Search, retrain, and answer by the `top` likeliest experts."""
        found, history = learn_by_grouping(
            task.train,
            task.architecture,
            self.grouping(learned=self.learned),
            seed=task.seed,
            trainer=task.trainer,
            observe=task.observe,
        )
        top = min(self.top, task.architecture.num_groups)
        if top == 1:
            return found, history
        return TopK(gate=found.gate, experts=found.experts, top=top), history
