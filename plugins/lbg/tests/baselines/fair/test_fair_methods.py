"""What holds for every fair baseline."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mlo_lbg.architecture import Architecture, linear_experts
from mlo_lbg.baselines.fair.drawn import Drawn
from mlo_lbg.baselines.fair.errors import FairBaselineError
from mlo_lbg.baselines.fair.group_dro import group_dro
from mlo_lbg.baselines.fair.jtt import jtt
from mlo_lbg.baselines.fair.post_processing import post_processing
from mlo_lbg.baselines.fair.reductions import reductions
from mlo_lbg.baselines.fair.reweighting import reweighting
from mlo_lbg.baselines.fair.under_sampling import under_sampling
from mlo_lbg.baselines.fair.weighted import train_weighted
from mlo_lbg.data.dataset import Examples
from mlo_lbg.training import Optimisation, TrainingError

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


METHODS: dict[str, Callable[..., Any]] = {
    "under_sampling": under_sampling,
    "reweighting": reweighting,
    "group_dro": group_dro,
    "jtt": lambda *a, **k: jtt(*a, first_epochs=1, upweight=4.0, **k),
    "post_processing": post_processing,
    "reductions": lambda *a, **k: reductions(*a, max_iter=2, **k),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_function_of_data_and_seed(name: str) -> None:
    data = shortcut(120)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()

    def predicted(seed: int) -> Tensor:
        trained = METHODS[name](data, ARCHITECTURE, SHORT, seed=seed)
        told = trained.told(data.attribute) if hasattr(trained, "told") else trained
        classes = told.predict(data.inputs)
        probabilities = told.probabilities(data.inputs)
        assert classes.dtype == torch.int64
        assert probabilities.shape == (120, 2)
        assert probabilities.sum(-1).allclose(torch.ones(120))
        return torch.cat((classes.float(), probabilities.flatten()))

    first = predicted(0)
    assert torch.get_rng_state().equal(before[0])
    torch.rand(3)
    np.random.rand(3)
    assert first.equal(predicted(0))
    assert not first.equal(predicted(1))


def three_classes() -> Examples:
    return Examples(
        inputs=torch.zeros(6, 2),
        targets=torch.arange(6) % 3,
        attribute=torch.arange(6) // 3,
        num_classes=3,
        num_attributes=2,
    )


def one_sided() -> Examples:
    data = shortcut(50)
    return data.subset((data.targets == 0) | (data.attribute == 0))


@pytest.mark.parametrize("name", ["post_processing", "reductions"])
def test_constraints_need_two_classes_in_every_value(name: str) -> None:
    with pytest.raises(FairBaselineError, match=r"num_classes: expected 2, .*got 3"):
        METHODS[name](three_classes(), ARCHITECTURE, SHORT, seed=0)
    with pytest.raises(FairBaselineError, match=r"both classes with attribute 1 .* 0 of class 1"):
        METHODS[name](one_sided(), ARCHITECTURE, SHORT, seed=0)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (group_dro, {"step": 0.0}, "step: expected a positive number, got 0.0"),
        (group_dro, {"adjustment": -1.0}, "adjustment: expected 0 or more, got -1.0"),
        (jtt, {"first_epochs": 1, "upweight": 0.5}, "upweight: expected .* 1 or more, got 0.5"),
        (reductions, {"bound": 0.0}, "bound: expected a share above 0"),
        (reductions, {"max_iter": 0}, "max_iter: expected at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(
    method: Callable[..., Any], options: dict[str, float], message: str
) -> None:
    with pytest.raises(FairBaselineError, match=message):
        method(shortcut(50), ARCHITECTURE, SHORT, seed=0, **options)


def test_wrong_weights_and_epochs_are_refused() -> None:
    data, make = shortcut(50), ARCHITECTURE.make_network
    with pytest.raises(FairBaselineError, match=r"weights: expected shape \(50,\), got \(3,\)"):
        train_weighted(data, torch.ones(3), make, SHORT, seed=0)
    with pytest.raises(FairBaselineError, match="finite numbers of 0 or more"):
        train_weighted(data, -torch.ones(50), make, SHORT, seed=0)
    with pytest.raises(FairBaselineError, match=r"weights: expected shape \(50,\)"):
        Drawn(data, torch.ones(3), size=4, seed=0)
    with pytest.raises(FairBaselineError, match="not all 0"):
        Drawn(data, torch.zeros(50), size=4, seed=0)
    with pytest.raises(FairBaselineError, match="size: expected at least 1"):
        Drawn(data, torch.ones(50), size=0, seed=0)
    with pytest.raises(TrainingError, match="epochs: expected at least 1, got 0"):
        jtt(data, ARCHITECTURE, SHORT, first_epochs=0, upweight=2.0, seed=0)


def test_networks_may_take_images() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 4, 4), generator=random, dtype=torch.uint8)
    rows = torch.arange(40)
    data = Examples(
        inputs=images,
        targets=rows % 2,
        attribute=rows // 2 % 2,
        num_classes=2,
        num_attributes=2,
    )

    class Small(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs.flatten(1).float() / 255)

    small: Architecture = replace(ARCHITECTURE, make_network=lambda: Small(48, 2))
    for name, method in METHODS.items():
        trained = method(data, small, Optimisation(epochs=1), seed=0)
        told = trained.told(data.attribute) if hasattr(trained, "told") else trained
        assert told.predict(data.inputs).shape == (40,), name
