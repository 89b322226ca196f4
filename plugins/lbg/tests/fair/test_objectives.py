"""Soft objectives against the measured ones, and against finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo_lbg.fair.objectives import (
    Objective,
    ObjectiveError,
    cross_entropy,
    demographic_parity,
    equalized_odds,
    group_dro,
    odds_gaps,
    penalised,
    selection_gaps,
)
from mlo_lbg.fairness import fairness

sizes = {"classes": st.integers(2, 4), "values": st.integers(2, 3), "seed": st.integers(0, 9999)}


def draw(classes: int, values: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every pair of class and value occurs."""
    g = torch.Generator().manual_seed(seed)
    targets = torch.arange(classes).repeat(values * 4)
    attribute = torch.arange(values).repeat_interleave(classes * 4)
    logits = torch.randn(len(targets), classes, dtype=torch.float64, generator=g)
    return logits, targets, attribute


@settings(max_examples=50, deadline=None)
@given(**sizes)
def test_gaps_become_the_measured_ones_as_the_temperature_goes_to_0(
    classes: int, values: int, seed: int
) -> None:
    logits, targets, attribute = draw(classes, values, seed)
    measured = fairness(
        logits.argmax(-1), targets, attribute, num_classes=classes, num_attributes=values
    )
    odds = odds_gaps(logits, targets, attribute, temperature=1e-7).abs().sum(0).amax(0)
    selection = selection_gaps(logits, targets, attribute, temperature=1e-7).abs().amax(0)
    assert float(odds.mean()) == pytest.approx(measured.equalized_odds.mean, abs=1e-6)
    assert float(odds.max()) == pytest.approx(measured.equalized_odds.worst, abs=1e-6)
    assert float(selection.mean()) == pytest.approx(measured.demographic_parity.mean, abs=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        cross_entropy,
        group_dro,
        equalized_odds,
        demographic_parity,
        penalised(equalized_odds, weight=3.0),
    ],
)
def test_gradients_are_those_of_finite_differences(objective: Objective) -> None:
    logits, targets, attribute = draw(3, 2, 0)
    assert torch.autograd.gradcheck(
        lambda z: objective(z, targets, attribute), (logits.requires_grad_(),)
    )


@settings(max_examples=30, deadline=None)
@given(**sizes)
def test_group_dro_lies_between_the_mean_over_values_and_the_worst(
    classes: int, values: int, seed: int
) -> None:
    logits, targets, attribute = draw(classes, values, seed)
    losses = torch.stack(
        [
            cross_entropy(logits[attribute == v], targets[attribute == v], attribute)
            for v in range(values)
        ]
    )
    assert losses.mean() <= group_dro(logits, targets, attribute) + 1e-12
    assert group_dro(logits, targets, attribute) <= losses.max() + 1e-12
    sharp = group_dro(logits, targets, attribute, sharpness=1e5)
    assert float(sharp) == pytest.approx(float(losses.max()), abs=1e-4)


def test_what_a_batch_lacks_is_no_gap_and_has_a_finite_gradient() -> None:
    logits = torch.randn(4, 2, requires_grad=True)
    ones = torch.ones(4, dtype=torch.int64)
    for objective in (equalized_odds, demographic_parity, group_dro):
        loss = objective(logits, ones, ones)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()
    assert equalized_odds(logits, ones, ones) == 0


@pytest.mark.parametrize("setting", [0.0, -1.0, float("inf")])
def test_settings_out_of_range_are_named(setting: float) -> None:
    logits, targets, attribute = draw(2, 2, 0)
    with pytest.raises(ObjectiveError, match="temperature: expected a positive number"):
        equalized_odds(logits, targets, attribute, temperature=setting)
    with pytest.raises(ObjectiveError, match="sharpness: expected a positive number"):
        group_dro(logits, targets, attribute, sharpness=setting)
    with pytest.raises(ObjectiveError, match="weight: expected 0 or more"):
        penalised(equalized_odds, weight=setting or -1.0)
