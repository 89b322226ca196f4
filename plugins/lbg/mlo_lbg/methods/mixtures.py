"""Mixtures of experts that are trained on one loss."""

from typing import Literal

from mlo_lbg import routing
from mlo_lbg.baselines.deepmoe import deepmoe
from mlo_lbg.baselines.mixtures import soft_mixture, top_one_mixture
from mlo_lbg.baselines.noisy_top_k import noisy_top_k
from mlo_lbg.config import Count, NonNegative, TrainingConfig
from mlo_lbg.methods.task import Learned, Row, Task
from mlo_lbg.routing import ValidationLoss

_OBJECTIVES: dict[str, ValidationLoss] = {
    "expected": routing.expected,
    "mixture": routing.mixture,
}


class SoftMixture(Row, TrainingConfig):
    """A soft mixture: every expert answers."""

    kind: Literal["soft_mixture"] = "soft_mixture"
    objective: Literal["expected", "mixture"] = "expected"

    def train(self, task: Task) -> Learned:
        """Train gate and experts together."""
        return task.trained(
            soft_mixture, self.optimisation(), objective=_OBJECTIVES[self.objective]
        )


class TopOneMixture(Row, TrainingConfig):
    """A sparse mixture: the gate's softmax scales the logits of its top choice.

    With `balance` above 0 the usual sparse mixture with Switch balance; at 0 the two lower levels
    of LBG trained at once, without groups to learn from.
    """

    kind: Literal["top_one_mixture"] = "top_one_mixture"
    balance: NonNegative = 0.01

    def train(self, task: Task) -> Learned:
        """Train gate and experts together."""
        return task.trained(top_one_mixture, self.optimisation(), balance=self.balance)


class NoisyTopK(Row, TrainingConfig):
    """Noisy top-k gating; dense where K = k."""

    kind: Literal["noisy_top_k"] = "noisy_top_k"
    k: Count = 2
    importance: NonNegative = 0.01
    load: NonNegative = 0.01

    def train(self, task: Task) -> Learned:
        """Train gate and experts together; with one group there is one expert to choose."""
        return task.trained(
            noisy_top_k,
            self.optimisation(),
            k=min(self.k, task.architecture.num_groups),
            importance_weight=self.importance,
            load_weight=self.load,
        )


class DeepMoe(Row, TrainingConfig):
    """One network whose channels are gated by a shallow embedding."""

    kind: Literal["deepmoe"] = "deepmoe"
    sparsity: NonNegative = 0.01
    embedding: NonNegative = 1.0

    def train(self, task: Task) -> Learned:
        """Train network, embedding and gates together."""
        return task.trained(
            deepmoe, self.optimisation(), sparsity=self.sparsity, embedding=self.embedding
        )
