"""One network, and a threshold for each attribute value: the attribute is needed at test."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from fairlearn.postprocessing import ThresholdOptimizer
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from mlo_lbg.architecture import Architecture
from mlo_lbg.baselines.fair.parity import Parity, check_binary
from mlo_lbg.baselines.single import single_network
from mlo_lbg.by_part import by_part
from mlo_lbg.data.dataset import Examples, divide
from mlo_lbg.models.size import num_parameters
from mlo_lbg.predictors import Predictor, PredictorError
from mlo_lbg.seeds import spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation


class _Scored(BaseEstimator):  # type: ignore[misc]
    """An estimator whose input is its own score, so that inputs of any shape can be scored before.

    The networks stay on their device, and images do not pass through numpy.
    """

    def fit(self, _scores: Any, _targets: Any) -> Self:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def decision_function(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return scores[:, 0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Thresholded:
    """`P(ŷ=1 | x, a) = mixture over two thresholds of a of [z_1(x) − z_0(x) > threshold]`.

    Not a `Predictor`: it must be told the attribute of each example.

    Attributes:
        network: Inputs to `(batch, 2)` logits, in evaluation mode.
        thresholds: The fitted thresholds.
        seed: Decides the random predictions: the same in every call.
    """

    network: nn.Module
    thresholds: ThresholdOptimizer
    seed: int

    @property
    def num_parameters(self) -> int:
        """Size of the network, and thresholds with their probabilities."""
        own = self.thresholds.interpolated_thresholder_.interpolation_dict.values()
        return num_parameters(self.network) + sum(len(one) for one in own)

    def told(self, attribute: Tensor) -> Predictor:
        """The predictor for exactly the examples whose attribute is given.

        Args:
            attribute: `(examples,)` int64 attribute of the examples that will be predicted.

        Raises:
            PredictorError: If there were no training examples with one of its values.
        """
        known = set(self.thresholds.interpolated_thresholder_.interpolation_dict)
        unknown = set(attribute.tolist()) - known
        if unknown:
            raise PredictorError(
                f"attribute: expected values with thresholds, {sorted(known)}, "
                f"got {sorted(unknown)}"
            )
        return _Told(thresholded=self, attribute=attribute)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Told:
    thresholded: Thresholded
    attribute: Tensor

    @property
    def num_parameters(self) -> int:
        return self.thresholded.num_parameters

    def predict(self, inputs: Tensor) -> Tensor:
        classes = self.thresholded.thresholds.predict(
            self._scores(inputs),
            sensitive_features=self.attribute.cpu().numpy(),
            random_state=self.thresholded.seed,
        )
        return torch.as_tensor(classes, dtype=torch.int64, device=inputs.device)

    def probabilities(self, inputs: Tensor) -> Tensor:
        # The public `predict` draws from these; without them a table would only have draws.
        found = self.thresholded.thresholds._pmf_predict(
            self._scores(inputs), sensitive_features=self.attribute.cpu().numpy()
        )
        return torch.as_tensor(found, dtype=torch.float32, device=inputs.device)

    def groups(self, _inputs: Tensor) -> None:
        return None

    def _scores(self, inputs: Tensor) -> NDArray[np.float64]:
        if len(inputs) != len(self.attribute):
            raise PredictorError(
                f"inputs: expected the {len(self.attribute)} examples whose attribute was told, "
                f"got {len(inputs)}"
            )
        return _log_odds(self.thresholded.network, inputs)


@torch.no_grad()
def _log_odds(network: nn.Module, inputs: Tensor) -> NDArray[np.float64]:
    """`(examples, 1)` log-odds `z_1 − z_0`; unlike probabilities they do not saturate into ties."""
    logits = by_part(network, inputs).double()
    scores: NDArray[np.float64] = (logits[:, 1:] - logits[:, :1]).cpu().numpy()
    return scores


def post_processing(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    parity: Parity = Parity.EQUALIZED_ODDS,
    held_out: float | None = None,
    seed: int,
    trainer: Trainer = ALONE,
) -> Thresholded:
    """Maximise accuracy over (random) thresholds for each attribute value under exact parity.

    The attribute is used at test, where other methods do not have it.

    Args:
        train: All training examples, of two classes.
        architecture: `make_network` is built.
        optimisation: AdamW settings.
        parity: Which rates the thresholds make equal.
        held_out: Share of the examples that the thresholds are chosen on and the network is not
            trained on; None for all examples for both, which is optimistic if the network overfits.
        seed: Decides the held-out examples, initial weights, batches and random predictions.
        trainer: How it is run.

    Raises:
        FairBaselineError: If there are not two classes, or an attribute value has one class only.
        DataError: If `held_out` leaves one part empty.

    References:
        Hardt, Price and Srebro (2016), Equality of opportunity in supervised learning,
        arXiv 1610.02413.
    """
    check_binary(train, method="post-processing")
    parting, training, drawing = spawn(seed, 3)
    fitted, chosen = train, train
    if held_out is not None:
        fitted, chosen = divide(train, validation=held_out, seed=parting)
        check_binary(chosen, method="post-processing")
    trained = single_network(fitted, architecture, optimisation, seed=training, trainer=trainer)
    thresholds = ThresholdOptimizer(
        estimator=_Scored(),
        constraints=parity.value,
        prefit=True,
        predict_method="decision_function",
    )
    thresholds.fit(
        _log_odds(trained.network, chosen.inputs),
        chosen.targets.cpu().numpy(),
        sensitive_features=chosen.attribute.cpu().numpy(),
    )
    return Thresholded(network=trained.network, thresholds=thresholds, seed=drawing)
