"""Thresholds and reductions make rates equal, and say what they are."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from mlo.record import Record
from mlo_lbg import trainer as trainers
from mlo_lbg.architecture import linear_experts
from mlo_lbg.baselines.fair.parity import Parity
from mlo_lbg.baselines.fair.post_processing import Thresholded, post_processing
from mlo_lbg.baselines.fair.reductions import Randomised, reductions
from mlo_lbg.baselines.single import single_network
from mlo_lbg.data.dataset import Examples
from mlo_lbg.fairness import fairness
from mlo_lbg.models.size import num_parameters
from mlo_lbg.predictors import PredictorError
from mlo_lbg.trainer import Trainer
from mlo_lbg.training import Optimisation

ARCHITECTURE = replace(
    linear_experts(inputs=30, classes=2, num_groups=2), make_network=lambda: nn.Linear(2, 2)
)
SHORT = Optimisation(epochs=2, learning_rate=0.05)


def shortcut(count: int = 600, seed: int = 0) -> Examples:
    """The first feature is the class, small; the second the attribute, which is the class in 90%.

    A linear model learns the second first, so the two rare cells get it wrong.
    """
    random = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, generator=random) < 0.4).long()
    same = (torch.rand(count, generator=random) < 0.9).long()
    attribute = torch.where(same == 1, targets, 1 - targets)
    noise = torch.randn(count, 2, generator=random) * torch.tensor([0.15, 0.3])
    inputs = torch.stack((0.3 * (2 * targets - 1), 2 * attribute - 1), -1) + noise
    return Examples(
        inputs=inputs, targets=targets, attribute=attribute, num_classes=2, num_attributes=2
    )


def odds_gap(predictions: Tensor, examples: Examples) -> float:
    return measured(predictions, examples).equalized_odds.mean


def measured(predictions: Tensor, examples: Examples) -> Any:
    return fairness(
        predictions, examples.targets, examples.attribute, num_classes=2, num_attributes=2
    )


@pytest.mark.parametrize("parity", Parity)
def test_thresholds_close_the_gap_on_the_training_data(parity: Parity) -> None:
    data = shortcut(4000)
    plain = single_network(data, ARCHITECTURE, SHORT, seed=0)
    fair = post_processing(data, ARCHITECTURE, SHORT, parity=parity, seed=0).told(data.attribute)
    choose: Callable[[Any], float] = lambda found: (  # noqa: E731
        found.equalized_odds.mean
        if parity is Parity.EQUALIZED_ODDS
        else found.demographic_parity.mean
    )
    before, after = (choose(measured(one.predict(data.inputs), data)) for one in (plain, fair))
    assert before > 0.6
    assert after < 0.1
    # In expectation, without the draws, it is exact but for the grid of thresholds.
    positive = fair.probabilities(data.inputs)[:, 1]
    rates = [
        [float(positive[(data.attribute == a) & chosen].mean()) for a in (0, 1)]
        for chosen in (
            (data.targets == 0, data.targets == 1)
            if parity is Parity.EQUALIZED_ODDS
            else (data.targets >= 0,)
        )
    ]
    assert all(abs(one - other) < 0.005 for one, other in rates)


def test_thresholds_need_the_attribute_and_decide_by_seed() -> None:
    data = shortcut(400)
    trained = post_processing(data, ARCHITECTURE, SHORT, held_out=0.3, seed=0)
    told = trained.told(data.attribute)
    first = told.predict(data.inputs)
    assert first.dtype == torch.int64
    assert first.equal(told.predict(data.inputs))
    assert told.probabilities(data.inputs).sum(-1).allclose(torch.ones(400))
    assert told.groups(data.inputs) is None
    assert told.num_parameters == trained.num_parameters
    # Two thresholds with their probabilities and a constant with its probability for each value.
    assert trained.num_parameters - num_parameters(trained.network) == 12
    other = Thresholded(network=trained.network, thresholds=trained.thresholds, seed=9)
    assert not first.equal(other.told(data.attribute).predict(data.inputs))
    assert not first.equal(trained.told(1 - data.attribute).predict(data.inputs))
    with pytest.raises(PredictorError, match="expected the 400 examples"):
        told.predict(data.inputs[:3])
    with pytest.raises(PredictorError, match=r"expected values with thresholds, \[0, 1\], got \[2"):
        trained.told(data.attribute + 1)


def test_held_out_examples_do_not_train_the_network() -> None:
    seen: list[int] = []

    class Counting(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(len(inputs) if self.training else 0)
            return super().forward(inputs)

    counted = replace(ARCHITECTURE, make_network=lambda: Counting(2, 2))
    post_processing(shortcut(400), counted, Optimisation(epochs=1), held_out=0.25, seed=0)
    assert sum(seen) == 300


@pytest.fixture(scope="module")
def reduced() -> Randomised:
    longer = Optimisation(epochs=10, learning_rate=0.05)
    return reductions(shortcut(), ARCHITECTURE, longer, bound=0.02, max_iter=6, seed=0)


def test_reductions_close_the_gap_on_the_training_data(reduced: Randomised) -> None:
    data = shortcut()
    plain = single_network(data, ARCHITECTURE, Optimisation(epochs=10, learning_rate=0.05), seed=0)
    before = odds_gap(plain.predict(data.inputs), data)
    positive = reduced.probabilities(data.inputs)[:, 1]
    rates = torch.tensor(
        [
            [positive[(data.attribute == a) & (data.targets == y)].mean() for a in (0, 1)]
            for y in (0, 1)
        ]
    )
    assert before > 0.8
    assert float(rates.diff(dim=1).abs().sum()) < 0.25


def test_a_randomised_classifier_is_its_networks_by_their_weights(reduced: Randomised) -> None:
    inputs = shortcut(20000, seed=2).inputs
    probabilities = reduced.probabilities(inputs)
    votes = sum(
        weight * network(inputs).argmax(-1).double()
        for network, weight in zip(reduced.networks, reduced.weights, strict=True)
    )
    assert len(reduced.networks) > 1
    assert min(reduced.weights) > 0
    assert sum(reduced.weights) + reduced.always <= 1 + 1e-6
    assert probabilities[:, 1].allclose((votes + reduced.always).float())
    assert probabilities.sum(-1).allclose(torch.ones(20000))
    assert reduced.num_parameters == 6 * len(reduced.networks)
    predicted = reduced.predict(inputs)
    assert predicted.equal(reduced.predict(inputs))
    assert not predicted.equal(replace(reduced, seed=reduced.seed + 1).predict(inputs))
    unsure = (probabilities[:, 1] > 0.05) & (probabilities[:, 1] < 0.95)
    assert int(unsure.sum()) > 50
    rate, expected = predicted[unsure].double().mean(), probabilities[unsure, 1].double().mean()
    assert abs(float(rate - expected)) < 4 * (0.25 / int(unsure.sum())) ** 0.5
    assert reduced.groups(inputs) is None


def test_reductions_agree_with_fairlearns_own_probabilities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "mlo_lbg.baselines.fair.reductions"
    kept: list[Any] = []
    real = reductions.__globals__["ExponentiatedGradient"]

    def keep(*arguments: Any, **options: Any) -> Any:
        kept.append(real(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(f"{module}.ExponentiatedGradient", keep)
    data = shortcut(300)
    for parity in Parity:
        found = reductions(data, ARCHITECTURE, SHORT, parity=parity, max_iter=2, seed=0)
        theirs = kept[-1]._pmf_predict(np.arange(300)[:, None])
        assert np.allclose(found.probabilities(data.inputs).numpy(), theirs, atol=1e-6)
        assert kept[-1].n_oracle_calls_ <= 9 * 2 - 4


def test_reductions_go_on_from_the_checkpoints_of_their_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, rounds = shortcut(200), 0
    real = trainers.mlo.Engine

    class Stopping(real):  # type: ignore[misc, valid-type]
        def rounds(self, *arguments: Any, **options: Any) -> Any:
            nonlocal rounds
            for done in super().rounds(*arguments, **options):
                rounds += 1
                if rounds == 21:
                    raise StopError
                yield done

    straight = reductions(data, ARCHITECTURE, SHORT, max_iter=2, seed=0)
    monkeypatch.setattr(trainers.mlo, "Engine", Stopping)
    record = Record.create(tmp_path / "run", console=Console(file=io.StringIO()))
    kept = Trainer(directory=record, parts=("reductions",), checkpoint_every=3)
    with pytest.raises(StopError):
        reductions(data, ARCHITECTURE, SHORT, max_iter=2, seed=0, trainer=kept)
    resumed = reductions(data, ARCHITECTURE, SHORT, max_iter=2, seed=0, trainer=kept)
    record.close()
    assert straight.probabilities(data.inputs).equal(resumed.probabilities(data.inputs))
    # Two epochs of four batches for each training, and at most three repeated.
    trainings = rounds // 8
    assert trainings <= 9 * 2 - 4
    assert rounds - 8 * trainings <= 3


class StopError(Exception):
    """Stands for whatever ends a process."""
