"""How differently a classifier treats the values of a sensitive attribute.

With `SR_a = P(ŷ=1 | A=a)`, `TPR_a = P(ŷ=1 | y=1, A=a)` and `FPR_a = P(ŷ=1 | y=0, A=a)`, the gaps
between two attribute values are, without sign,

* DP, demographic parity, and SPD, statistical parity difference: `|ΔSR|` (one number, two names);
* DEO, difference of equalized odds: `|ΔTPR| + |ΔFPR|` (the sum, not the larger one);
* EOD, equal opportunity difference: `|ΔTPR|`;
* AOD, average odds difference: `|ΔFPR + ΔTPR| / 2` (differences of opposite sign cancel).

More than two attribute values: the largest gap between any two. More than two classes: every class
against the rest, of which the mean and the largest are reported; with two classes, class 1 is the
positive one. A rate without any example to estimate it from is nan, not 0; what rests on it is nan
or left out of the mean, and `Fairness.undefined` says which it was.

Counting is left to fairlearn and scikit-learn, a confusion matrix for each attribute value. The
rates are taken from it here because fairlearn's are 0 where they are undefined, and because, given
more than two classes, its summaries count class 1 only without a word.
"""

from dataclasses import dataclass

import numpy as np
from fairlearn.metrics import MetricFrame
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor

from mlo.errors import MloError

Floats = NDArray[np.float64]


class FairnessError(MloError):
    """Predictions, targets and attribute do not fit together."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A gap between attribute values, over one-against-rest classes.

    Attributes:
        mean: Mean over the classes in which it is defined; nan if there is none.
        worst: Largest over the same classes.
    """

    mean: float
    worst: float


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """Errors and gaps of one set of predictions, all as shares in `0 .. 1` (DEO: `0 .. 2`).

    Attributes:
        error: Share of wrong predictions.
        group_errors: Error within each attribute value; nan for a value without examples.
        worst_group_error: Largest of `group_errors`.
        demographic_parity: `|ΔSR|`; also the absolute statistical parity difference.
        equalized_odds: `|ΔTPR| + |ΔFPR|`.
        equal_opportunity: `|ΔTPR|`.
        average_odds: `|ΔFPR + ΔTPR| / 2`.
        undefined: `(class, attribute value)` pairs without positive or without negative examples,
            whose TPR or FPR is unknown.
    """

    error: float
    group_errors: tuple[float, ...]
    worst_group_error: float
    demographic_parity: Gap
    equalized_odds: Gap
    equal_opportunity: Gap
    average_odds: Gap
    undefined: tuple[tuple[int, int], ...]


def fairness(
    predictions: Tensor,
    targets: Tensor,
    attribute: Tensor,
    *,
    num_classes: int,
    num_attributes: int,
) -> Fairness:
    """Measure `|ΔSR|`, `|ΔTPR| + |ΔFPR|`, `|ΔTPR|`, `|ΔFPR + ΔTPR| / 2` and errors by attribute.

    Args:
        predictions: `(examples,)` int64 predicted classes.
        targets: `(examples,)` int64 true classes.
        attribute: `(examples,)` int64 sensitive attribute.
        num_classes: Number of classes; 2 means that class 1 is the positive one.
        num_attributes: Number of attribute values.

    Raises:
        FairnessError: If there are no examples, lengths differ, or a code is out of range.

    References:
        Bellamy et al. (2018), AI Fairness 360, arXiv 1810.01943.
        Wang et al. (2022), Fairness-aware adversarial perturbation (DP and the sum form of DEO),
        arXiv 2203.01584.

    >>> import torch
    >>> result = fairness(
    ...     torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1]),
    ...     num_classes=2, num_attributes=2,
    ... )
    >>> result.error, result.demographic_parity.mean, result.equalized_odds.mean
    (0.5, 1.0, 2.0)
    """
    codes = (
        ("predictions", predictions, num_classes),
        ("targets", targets, num_classes),
        ("attribute", attribute, num_attributes),
    )
    for name, values, count in codes:
        _check(name, values, len(targets), count)
    confusion = _confusion(predictions, targets, attribute, num_classes, num_attributes)

    total = confusion.sum((1, 2))
    right = confusion.diagonal(axis1=1, axis2=2)
    group_errors = 1 - _ratio(right.sum(1), total)

    # With two classes the other class only mirrors the positive one.
    first = 1 if num_classes == 2 else 0
    right = right[:, first:]
    selected = confusion.sum(1)[:, first:]
    positive = confusion.sum(2)[:, first:]
    true_positive = _ratio(right, positive)
    false_positive = _ratio(selected - right, total[:, None] - positive)
    delta_selection = _differences(_ratio(selected, total[:, None]))
    delta_true_positive = _differences(true_positive)
    delta_false_positive = _differences(false_positive)
    unknown = np.isnan(true_positive) | np.isnan(false_positive)
    return Fairness(
        error=float(1 - confusion.trace(axis1=1, axis2=2).sum() / total.sum()),
        group_errors=tuple(float(error) for error in group_errors),
        worst_group_error=float(np.nanmax(group_errors)),
        demographic_parity=_gap(np.abs(delta_selection)),
        equalized_odds=_gap(np.abs(delta_true_positive) + np.abs(delta_false_positive)),
        equal_opportunity=_gap(np.abs(delta_true_positive)),
        average_odds=_gap(np.abs(delta_false_positive + delta_true_positive) / 2),
        undefined=tuple((int(row[1]) + first, int(row[0])) for row in np.argwhere(unknown)),
    )


def _check(name: str, values: Tensor, length: int, count: int) -> None:
    if values.shape != (length,) or not length:
        raise FairnessError(
            f"{name}: expected shape (examples,) with one entry per target and at least one "
            f"example, got {tuple(values.shape)} with {length} targets"
        )
    if values.min() < 0 or values.max() >= count:
        raise FairnessError(
            f"{name}: expected values in 0..{count - 1}, "
            f"got {int(values.min())}..{int(values.max())}"
        )


def _confusion(
    predictions: Tensor, targets: Tensor, attribute: Tensor, num_classes: int, num_attributes: int
) -> Floats:
    """`(attributes, true class, predicted class)` counts."""

    def confusion(true: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
        counted: NDArray[np.int64] = confusion_matrix(true, predicted, labels=range(num_classes))
        return counted

    frame = MetricFrame(
        metrics=confusion,
        y_true=targets.cpu().numpy(),
        y_pred=predictions.cpu().numpy(),
        sensitive_features=attribute.cpu().numpy(),
    )
    counts = np.zeros((num_attributes, num_classes, num_classes))
    for value, matrix in frame.by_group.items():
        counts[value] = matrix
    return counts


def _ratio(part: Floats, whole: Floats) -> Floats:
    """`part / whole`, nan where `whole` is 0."""
    whole = np.broadcast_to(whole, part.shape)
    result: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return result


def _differences(rates: Floats) -> Floats:
    """`(attributes, classes)` rates to `(pairs of attribute values, classes)` differences."""
    first, second = np.triu_indices(len(rates), k=1)
    difference: Floats = rates[first] - rates[second]
    return difference


def _gap(gaps: Floats) -> Gap:
    """Reduce `(pairs, classes)`: largest over pairs, then mean and largest over classes."""
    by_class = np.fmax.reduce(gaps, axis=0, initial=np.nan)
    defined = by_class[~np.isnan(by_class)]
    if not defined.size:
        return Gap(mean=float("nan"), worst=float("nan"))
    return Gap(mean=float(defined.mean()), worst=float(defined.max()))
