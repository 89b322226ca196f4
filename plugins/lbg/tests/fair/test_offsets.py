"""The grid search against brute force, its budget and its errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo_lbg.fair.offsets import OffsetError, OffsetSettings, refit_offsets
from mlo_lbg.fairness import fairness

SETTINGS = OffsetSettings(error_budget=0.1, candidates=40)


def draw(seed: int, groups: int = 2) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    n = 40
    targets = torch.randint(2, (n,), generator=g)
    attribute = torch.randint(2, (n,), generator=g)
    margins = torch.randn(n, generator=g) + targets + 0.5 * attribute - 0.7
    return margins, torch.randint(groups, (n,), generator=g), targets, attribute


def measured(
    margins: torch.Tensor, targets: torch.Tensor, attribute: torch.Tensor
) -> tuple[float, float]:
    found = fairness((margins > 0).long(), targets, attribute, num_classes=2, num_attributes=2)
    return found.error, found.equalized_odds.mean


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 9999))
def test_two_groups_are_solved_exactly(seed: int) -> None:
    margins, groups, targets, attribute = draw(seed)
    b = refit_offsets(margins, groups, targets, attribute, num_groups=2, settings=SETTINGS)
    error, gap = measured(margins + b[groups], targets, attribute)
    allowed = measured(margins, targets, attribute)[0] + 0.1 + 1e-9
    assert error <= allowed
    # Every example may be the first one that is not selected, in each of the two groups.
    first, second = (torch.cat([torch.zeros(1), -margins[groups == k] - 1e-4]) for k in (0, 1))
    offsets = torch.where(groups == 0, first[:, None, None], second[None, :, None])
    selected = (margins + offsets > 0).double()
    errors = (selected - targets).abs().mean(-1)

    def rate(true: int, value: int) -> torch.Tensor:
        return selected[..., (targets == true) & (attribute == value)].mean(-1)

    gaps = sum((rate(true, 0) - rate(true, 1)).abs() for true in (0, 1))
    assert float(torch.where(errors <= allowed, gaps, torch.inf).min()) >= gap - 2e-3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), groups=st.integers(1, 4))
def test_the_gap_never_grows_and_the_error_stays_within_its_budget(seed: int, groups: int) -> None:
    margins, own, targets, attribute = draw(seed, groups)
    b = refit_offsets(margins, own, targets, attribute, num_groups=groups, settings=SETTINGS)
    before = measured(margins, targets, attribute)
    after = measured(margins + b[own], targets, attribute)
    assert after[0] <= before[0] + 0.1 + 1e-9
    assert after[1] <= before[1] + 2e-3


def test_errors_name_the_field() -> None:
    margins, groups, targets, attribute = draw(0)
    with pytest.raises(OffsetError, match="targets: expected two classes, got class 2"):
        refit_offsets(margins, groups, targets + 1, attribute, num_groups=2, settings=SETTINGS)
    with pytest.raises(OffsetError, match=r"groups: expected shape \(40,\), got \(3,\)"):
        refit_offsets(margins, groups[:3], targets, attribute, num_groups=2, settings=SETTINGS)
    with pytest.raises(OffsetError, match=r"error_budget: expected 0\.\.1, got -1"):
        OffsetSettings(error_budget=-1)
