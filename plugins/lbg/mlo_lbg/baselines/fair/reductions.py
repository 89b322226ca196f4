"""A random choice among networks that were trained on cost-sensitive versions of the task."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Self

import numpy as np
import torch
from fairlearn.reductions import (
    ClassificationMoment,
    DemographicParity,
    EqualizedOdds,
    ExponentiatedGradient,
)
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from torch import Tensor, nn

from mlo_lbg.architecture import Architecture, MakeModule
from mlo_lbg.baselines.fair.errors import FairBaselineError
from mlo_lbg.baselines.fair.parity import Parity, check_binary
from mlo_lbg.baselines.fair.weighted import train_weighted
from mlo_lbg.data.dataset import Examples
from mlo_lbg.models.size import num_parameters
from mlo_lbg.predictors import OneNetwork
from mlo_lbg.seeds import spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation


@dataclass(frozen=True, kw_only=True, eq=False)
class Randomised:
    """`P(ŷ=1 | x) = b + Σ_t w_t [argmax_c z_tc(x) = 1]`: one network is drawn for each example.

    Attributes:
        networks: Each maps inputs to `(batch, 2)` logits, in evaluation mode.
        weights: Probability w_t of each network, above 0.
        always: Probability b of answering 1 without looking; what is left answers 0.
        seed: Decides the random predictions: the same in every call.
    """

    networks: Sequence[nn.Module]
    weights: Sequence[float]
    always: float
    seed: int

    @property
    def num_parameters(self) -> int:
        """Size of all networks, each of which has the whole budget."""
        return sum(num_parameters(network) for network in self.networks)

    def predict(self, inputs: Tensor) -> Tensor:
        """A class drawn from `probabilities`."""
        positive = self._positive(inputs).cpu()
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(len(positive), dtype=torch.float64, generator=generator)
        return (drawn < positive).long().to(inputs.device)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """How probably each class is drawn."""
        positive = self._positive(inputs).float()
        return torch.stack((1 - positive, positive), -1)

    def groups(self, _inputs: Tensor) -> None:
        """Networks are drawn at random: no groups."""

    def _positive(self, inputs: Tensor) -> Tensor:
        positive = torch.full((len(inputs),), self.always, dtype=torch.float64)
        positive = positive.to(inputs.device)
        for network, weight in zip(self.networks, self.weights, strict=True):
            positive = positive + weight * OneNetwork(network=network).predict(inputs)
        return positive.clamp(0, 1)


@dataclass(kw_only=True, eq=False)
class _Oracle:
    """Trains the network as an estimator whose inputs are row numbers of the training examples.

    Row numbers because inputs of any shape and device are then left where they are.
    """

    train: Examples
    make_network: MakeModule
    optimisation: Optimisation
    seed: int
    trainer: Trainer
    numbers: Iterator[int] = field(default_factory=count)
    network: nn.Module | None = None

    def __sklearn_clone__(self) -> Self:
        # Calls of the oracle are numbered to keep their records apart. They share the seed: a
        # network differs from another by its costs only, and equal costs yield equal networks.
        return replace(self, trainer=self.trainer.within(f"oracle-{next(self.numbers)}"))

    def fit(self, _rows: NDArray[np.int64], targets: Any, sample_weight: Any) -> Self:
        device = self.train.targets.device
        relabelled = replace(self.train, targets=_tensor(targets, torch.int64, device))
        self.network = train_weighted(
            relabelled,
            _tensor(sample_weight, torch.float64, device),
            self.make_network,
            self.optimisation,
            seed=self.seed,
            trainer=self.trainer,
        )
        return self

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        inputs = self.train.inputs[torch.as_tensor(rows[:, 0], device=self.train.inputs.device)]
        assert self.network is not None
        found: NDArray[np.int64] = OneNetwork(network=self.network).predict(inputs).cpu().numpy()
        return found


def _tensor(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=dtype, device=device)


def _constraint(parity: Parity, bound: float) -> ClassificationMoment:
    match parity:
        case Parity.EQUALIZED_ODDS:
            return EqualizedOdds(difference_bound=bound)
        case Parity.DEMOGRAPHIC_PARITY:
            return DemographicParity(difference_bound=bound)


def reductions(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    parity: Parity = Parity.EQUALIZED_ODDS,
    bound: float = 0.01,
    max_iter: int = 10,
    seed: int,
    trainer: Trainer = ALONE,
) -> Randomised:
    """Minimise the error of a random choice among networks under `|rate_a − rate| ≤ bound`.

    Exponentiated gradient on the Lagrangian. An iteration trains 2 to 9 networks, the first one at
    most 5: at most `9 · max_iter − 4` trainings, each as long as that of the single network. The
    networks in the result together are larger than the budget by how many they are.

    Args:
        train: All training examples, of two classes.
        architecture: `make_network` is built for each training.
        optimisation: AdamW settings of every training.
        parity: Which rates are constrained.
        bound: Largest difference of the rate of an attribute value from that of all, above 0.
        max_iter: Iterations, at least 1.
        seed: Decides initial weights, batches and random predictions.
        trainer: How it is run.

    Raises:
        FairBaselineError: If there are not two classes, an attribute value has one class only, or a
            setting is out of range.

    References:
        Agarwal, Beygelzimer, Dudík, Langford and Wallach (2018), A reductions approach to fair
        classification, arXiv 1803.02453.
    """
    check_binary(train, method="reductions")
    if not 0 < bound <= 1:
        raise FairBaselineError(f"bound: expected a share above 0 and at most 1, got {bound}")
    if max_iter < 1:
        raise FairBaselineError(f"max_iter: expected at least 1, got {max_iter}")
    training, drawing = spawn(seed, 2)
    oracle = _Oracle(
        train=train,
        make_network=architecture.make_network,
        optimisation=optimisation,
        seed=training,
        trainer=trainer,
    )
    reduction = ExponentiatedGradient(
        oracle, _constraint(parity, bound), eps=bound, max_iter=max_iter
    )
    with warnings.catch_warnings():
        # fairlearn grows and retypes its own tables in ways that pandas 4 will refuse.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"fairlearn\.")
        reduction.fit(
            np.arange(len(train))[:, None],
            train.targets.cpu().numpy(),
            sensitive_features=train.attribute.cpu().numpy(),
        )
    return _randomised(reduction, seed=drawing)


def _randomised(reduction: ExponentiatedGradient, *, seed: int) -> Randomised:
    networks, weights, always = [], [], 0.0
    for place, weight in reduction.weights_.items():
        member = reduction.predictors_[place]
        if weight <= 0:
            continue
        # Where the costs of one class are all 0, fairlearn answers with a constant itself.
        if isinstance(member, DummyClassifier):
            always += float(weight * member.constant)
        else:
            networks.append(member.network)
            weights.append(float(weight))
    return Randomised(networks=networks, weights=weights, always=always, seed=seed)
