"""Methods without a gate that is trained: one network, an ensemble, given groups."""

from typing import Literal

from mlo_lbg.baselines.bagging import bagging
from mlo_lbg.baselines.given_groups import attribute_groups, kmeans_groups
from mlo_lbg.baselines.single import single_network
from mlo_lbg.config import Count, TrainingConfig
from mlo_lbg.methods.task import Learned, Row, Task


class Single(Row, TrainingConfig):
    """One network of the whole budget."""

    kind: Literal["single"] = "single"

    def train(self, task: Task) -> Learned:
        """Train it on all examples."""
        return task.trained(single_network, self.optimisation())


class Bagging(Row, TrainingConfig):
    """An ensemble of K networks of 1/K of the budget."""

    kind: Literal["bagging"] = "bagging"

    def train(self, task: Task) -> Learned:
        """Train each on a sample with replacement."""
        return task.trained(bagging, self.optimisation())


class KMeans(Row, TrainingConfig):
    """Experts of k-means clusters."""

    kind: Literal["kmeans"] = "kmeans"
    restarts: Count = 10

    def train(self, task: Task) -> Learned:
        """Cluster the inputs, then train one expert on each cluster."""
        return task.trained(kmeans_groups, self.optimisation(), restarts=self.restarts)


class ByAttribute(Row, TrainingConfig):
    """Experts of the attribute's values, which must be told at test."""

    kind: Literal["attribute"] = "attribute"

    def train(self, task: Task) -> Learned:
        """Train one expert on each value of the attribute."""
        return task.trained(attribute_groups, self.optimisation())
