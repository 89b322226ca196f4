import math

import numpy as np
import pytest
import torch
from fairlearn.metrics import (
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlo_lbg.fairness import Fairness, FairnessError, fairness

# predicted, true, attribute, how many
CELLS = [
    (1, 1, 0, 6),
    (0, 1, 0, 2),
    (1, 0, 0, 3),
    (0, 0, 0, 9),
    (1, 1, 1, 5),
    (0, 1, 1, 5),
    (1, 0, 1, 4),
    (0, 0, 1, 6),
]


def spread(cells: list[tuple[int, int, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.tensor([cell[:3] for cell in cells for _ in range(cell[3])])
    return rows[:, 0], rows[:, 1], rows[:, 2]


def measured(
    predictions: Tensor, targets: Tensor, attribute: Tensor, classes: int, values: int
) -> Fairness:
    return fairness(predictions, targets, attribute, num_classes=classes, num_attributes=values)


def test_two_classes_two_values_by_hand() -> None:
    result = measured(*spread(CELLS), 2, 2)
    # value 0: SR 9/20, TPR 6/8, FPR 3/12, error 5/20; value 1: SR 9/20, TPR 5/10, FPR 4/10, 9/20
    assert result.error == pytest.approx(14 / 40)
    assert result.group_errors == pytest.approx((0.25, 0.45))
    assert result.worst_group_error == pytest.approx(0.45)
    assert result.demographic_parity.mean == pytest.approx(0)
    assert result.equal_opportunity.mean == pytest.approx(0.25)
    assert result.equalized_odds.mean == pytest.approx(0.25 + 0.15)
    # The differences have opposite signs: ΔTPR = +.25, ΔFPR = -.15.
    assert result.average_odds.mean == pytest.approx(0.05)
    assert result.undefined == ()


def test_three_classes_by_hand_one_against_the_rest() -> None:
    predictions = torch.tensor([0, 1, 2, 2, 0, 0, 1, 1])
    targets = torch.tensor([0, 1, 2, 0, 0, 1, 2, 1])
    attribute = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    result = measured(predictions, targets, attribute, 3, 2)
    # selection rates by class: value 0: 1/4 1/4 2/4; value 1: 2/4 2/4 0
    assert result.demographic_parity.mean == pytest.approx((0.25 + 0.25 + 0.5) / 3)
    assert result.demographic_parity.worst == pytest.approx(0.5)
    # true positive rates: 1/2 1 1; 1 1/2 0
    assert result.equal_opportunity.mean == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert result.equal_opportunity.worst == pytest.approx(1)
    # false positive rates: 0 0 1/3; 1/3 1/2 0
    assert result.equalized_odds.mean == pytest.approx((0.5 + 1 / 3 + 1 + 4 / 3) / 3)
    assert result.equalized_odds.worst == pytest.approx(4 / 3)
    # |ΔTPR + ΔFPR| / 2 with signs: |-1/2 - 1/3|, |1/2 - 1/2|, |1 + 1/3|
    assert result.average_odds.mean == pytest.approx((5 / 6 + 0 + 4 / 3) / 6)
    assert result.error == pytest.approx(3 / 8)


def test_more_than_one_class_is_counted_where_fairlearn_counts_class_one_only() -> None:
    predictions = torch.tensor([0, 0, 2, 2])
    targets = torch.tensor([0, 2, 0, 2])
    attribute = torch.tensor([0, 0, 1, 1])
    silent = demographic_parity_difference(
        targets.numpy(), predictions.numpy(), sensitive_features=attribute.numpy()
    )
    assert silent == 0
    result = measured(predictions, targets, attribute, 3, 2)
    assert result.demographic_parity.worst == 1
    assert result.demographic_parity.mean == pytest.approx(2 / 3)


def test_three_values_give_the_largest_gap_of_a_pair() -> None:
    predictions = torch.tensor([1, 1, 1, 0, 0, 0])
    targets = torch.tensor([1, 0, 1, 0, 1, 0])
    attribute = torch.tensor([0, 0, 1, 1, 2, 2])
    # TPR 1 1 0; FPR 1 0 0
    result = measured(predictions, targets, attribute, 2, 3)
    assert result.demographic_parity.mean == 1
    assert result.equal_opportunity.mean == 1
    assert result.equalized_odds.mean == 2
    assert result.average_odds.mean == 1


def test_an_unknown_rate_is_nan_and_named_not_zero() -> None:
    predictions = torch.tensor([1, 0, 1, 0])
    targets = torch.tensor([1, 0, 0, 0])
    attribute = torch.tensor([0, 0, 1, 1])
    result = measured(predictions, targets, attribute, 2, 2)
    assert math.isnan(result.equal_opportunity.mean)
    assert math.isnan(result.equalized_odds.mean)
    assert result.demographic_parity.mean == 0
    assert result.undefined == ((1, 1),)


def test_a_class_without_examples_is_left_out_of_the_mean_and_named() -> None:
    predictions = torch.tensor([0, 1, 1, 1])
    targets = torch.tensor([0, 1, 0, 1])
    attribute = torch.tensor([0, 0, 1, 1])
    result = measured(predictions, targets, attribute, 3, 2)
    # class 2 never occurs: its TPR is unknown for both values; |ΔTPR| is 1 and 0 for the others.
    assert result.equal_opportunity.mean == pytest.approx(0.5)
    assert result.undefined == ((2, 0), (2, 1))


def test_a_value_without_examples_is_nan_in_the_errors_only() -> None:
    predictions, targets, attribute = spread(CELLS)
    with_gap = measured(predictions, targets, attribute, 2, 3)
    assert math.isnan(with_gap.group_errors[2])
    assert with_gap.worst_group_error == pytest.approx(0.45)
    assert with_gap.equalized_odds == measured(predictions, targets, attribute, 2, 2).equalized_odds


def test_one_value_has_no_gap() -> None:
    predictions, targets, attribute = spread(CELLS)
    result = measured(predictions, targets, torch.zeros_like(attribute), 2, 1)
    assert result.worst_group_error == pytest.approx(result.error)
    assert math.isnan(result.demographic_parity.mean)
    assert math.isnan(result.demographic_parity.worst)


ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 2)), min_size=6, max_size=60
)


# fairlearn takes some 20 ms for one number.
@settings(max_examples=12)
@given(rows=ROWS)
def test_two_classes_agree_with_fairlearn(rows: list[tuple[int, int, int]]) -> None:
    predictions, targets, attribute = torch.tensor(rows).T
    kept = attribute < 2
    predictions, targets, attribute = predictions[kept], targets[kept], attribute[kept]
    assume({(a, y) for _, y, a in rows if a < 2} == {(0, 0), (0, 1), (1, 0), (1, 1)})
    result = measured(predictions, targets, attribute, 2, 2)
    data = {
        "y_true": targets.numpy(),
        "y_pred": predictions.numpy(),
        "sensitive_features": attribute.numpy(),
    }
    assert result.demographic_parity.mean == pytest.approx(demographic_parity_difference(**data))
    assert result.equal_opportunity.mean == pytest.approx(equal_opportunity_difference(**data))
    assert result.equalized_odds.mean == pytest.approx(
        2 * equalized_odds_difference(**data, agg="mean")
    )


@settings(max_examples=12)
@given(rows=ROWS)
def test_three_values_agree_with_fairlearn_where_one_rate_is_compared(
    rows: list[tuple[int, int, int]],
) -> None:
    predictions, targets, attribute = torch.tensor(rows).T
    assume({(a, y) for _, y, a in rows} == {(a, y) for a in range(3) for y in range(2)})
    result = measured(predictions, targets, attribute, 2, 3)
    data = {
        "y_true": targets.numpy(),
        "y_pred": predictions.numpy(),
        "sensitive_features": attribute.numpy(),
    }
    assert result.demographic_parity.mean == pytest.approx(demographic_parity_difference(**data))
    assert result.equal_opportunity.mean == pytest.approx(equal_opportunity_difference(**data))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), classes=st.integers(2, 5), values=st.integers(1, 4))
def test_names_of_values_do_not_matter_and_bounds_hold(
    seed: int, classes: int, values: int
) -> None:
    generator = np.random.default_rng(seed)
    predictions, targets = torch.from_numpy(generator.integers(classes, size=(2, 40)))
    attribute = torch.from_numpy(generator.integers(values, size=40))
    result = measured(predictions, targets, attribute, classes, values)
    renamed = measured(predictions, targets, values - 1 - attribute, classes, values)
    for gap in ("demographic_parity", "equalized_odds", "equal_opportunity", "average_odds"):
        found, other = getattr(result, gap), getattr(renamed, gap)
        assert found.mean == pytest.approx(other.mean, nan_ok=True)
        if not math.isnan(found.mean):
            assert 0 <= found.mean <= found.worst + 1e-12
            assert found.worst <= (2 if gap == "equalized_odds" else 1)
    if values > 1 and not math.isnan(result.equalized_odds.worst):
        assert result.average_odds.worst <= result.equalized_odds.worst / 2 + 1e-12
    perfect = measured(targets, targets, attribute, classes, values)
    assert perfect.error == 0
    assert math.isnan(perfect.equalized_odds.mean) or perfect.equalized_odds.worst == 0


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        ([0, 1], [0], r"predictions: expected shape .* got \(2,\) with 1 targets"),
        ([], [], "predictions: expected .* at least one example"),
        ([2], [1], r"predictions: expected values in 0..1, got 2..2"),
        ([1], [-1], r"targets: expected values in 0..1, got -1..-1"),
    ],
)
def test_what_does_not_fit_is_named(
    predictions: list[int], targets: list[int], message: str
) -> None:
    attribute = torch.zeros(len(targets), dtype=torch.int64)
    with pytest.raises(FairnessError, match=message):
        measured(
            torch.tensor(predictions, dtype=torch.int64),
            torch.tensor(targets, dtype=torch.int64),
            attribute,
            2,
            1,
        )
