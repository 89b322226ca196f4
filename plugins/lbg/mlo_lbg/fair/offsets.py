"""One threshold a group: offsets of the positive logit, exact over a grid, on training data."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mlo.errors import MloError


class OffsetError(MloError):
    """Offsets cannot be refitted to this."""


@dataclass(frozen=True, kw_only=True)
class OffsetSettings:
    """How offsets are refitted.

    Args:
        error_budget: How far the training error may rise above that without offsets, 0 or more.
        candidates: Offsets that are tried for each group, at least 2.
        sweeps: Passes over all pairs of groups at most, at least 1.
        largest: No offset is farther from 0.

    Raises:
        OffsetError: If a setting is out of range.

    >>> OffsetSettings(error_budget=0.01).candidates
    160
    """

    error_budget: float = 0.007
    candidates: int = 160
    sweeps: int = 4
    largest: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.error_budget <= 1:
            raise OffsetError(f"error_budget: expected 0..1, got {self.error_budget}")
        for name, least in (("candidates", 2), ("sweeps", 1)):
            if getattr(self, name) < least:
                raise OffsetError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if not 0 < self.largest < float("inf"):
            raise OffsetError(f"largest: expected a positive number, got {self.largest}")


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """What each candidate offset of one group adds; the sums over groups are what is measured.

    Attributes:
        offsets: `(candidates,)`.
        rates: `(candidates, 2, attributes)` shares of all negatives and positives predicted 1.
        wrong: `(candidates,)` share of all examples.
    """

    offsets: Tensor
    rates: Tensor
    wrong: Tensor


@torch.no_grad()
def refit_offsets(
    margins: Tensor,
    groups: Tensor,
    targets: Tensor,
    attribute: Tensor,
    *,
    num_groups: int,
    settings: OffsetSettings,
) -> Tensor:
    """`argmin_b DEO of 1[m + b_g > 0]` such that its error is at most that of b = 0 plus a budget.

    Given the groups, TPR, FPR and error are sums of step functions of one offset each. The hard
    gaps of a pair of offsets are therefore searched over all pairs of candidates at once, exactly,
    pair after pair until nothing improves; with two groups one such search is the answer. No smooth
    surrogate is involved, so there is no difference between soft and hard gaps.

    Args:
        margins: `(examples,)` logit of class 1 minus that of class 0.
        groups: `(examples,)` int64 in `0 .. num_groups - 1`.
        targets: `(examples,)` int64, 0 or 1.
        attribute: `(examples,)` int64; training examples only.
        num_groups: K.
        settings: Budget and grid.

    Returns:
        `(num_groups,)` offsets of the margin.

    Raises:
        OffsetError: If there are more than two classes or no examples, or lengths differ.

    References:
        Hardt, Price and Srebro (2016), Equality of opportunity in supervised learning,
        arXiv 1610.02413, whose thresholds are by attribute where these are by group.

    >>> margins, groups = torch.tensor([1.0, -1.0, 0.5, -0.5]), torch.tensor([0, 0, 1, 1])
    >>> refit_offsets(margins, groups, torch.tensor([1, 0, 0, 0]), torch.tensor([0, 0, 1, 1]),
    ...               num_groups=2, settings=OffsetSettings(error_budget=0.0))[1] < -0.5
    tensor(True)
    """
    size = margins.shape
    if len(size) != 1 or not len(margins):
        raise OffsetError(f"margins: expected shape (examples,), not empty, got {tuple(size)}")
    for name, value in (("groups", groups), ("targets", targets), ("attribute", attribute)):
        if value.shape != size:
            raise OffsetError(f"{name}: expected shape {tuple(size)}, got {tuple(value.shape)}")
    if targets.max() > 1:
        raise OffsetError(f"targets: expected two classes, got class {int(targets.max())}")
    curves = _curves(margins, groups, targets, attribute, num_groups, settings)
    start = [int((each.offsets == 0).nonzero()[0]) for each in curves]
    allowed = sum(float(c.wrong[at]) for c, at in zip(curves, start, strict=True))
    allowed += settings.error_budget + 1e-9
    best = start
    for sweep in range(settings.sweeps):
        before = list(best)
        for chosen in _pairs(num_groups):
            best = _improve(curves, best, chosen, allowed)
        if best == before and sweep:
            break
    return torch.stack([each.offsets[at] for each, at in zip(curves, best, strict=True)])


def _pairs(num_groups: int) -> Iterator[tuple[int, int]]:
    return combinations(range(num_groups), 2) if num_groups > 1 else iter([(0, 0)])


def _improve(
    curves: list[_Curves], best: list[int], chosen: tuple[int, int], allowed: float
) -> list[int]:
    """Choose the two offsets anew, all others as they are."""
    first, second = (curves[k] for k in chosen)
    others = [(curves[k], at) for k, at in enumerate(best) if k not in chosen]
    rates = first.rates[:, None] + sum(c.rates[at] for c, at in others)
    wrong = first.wrong[:, None] + sum(c.wrong[at] for c, at in others)
    if chosen[0] != chosen[1]:
        rates, wrong = rates + second.rates[None], wrong + second.wrong[None]
    gap = (rates.amax(-1) - rates.amin(-1)).sum(-1)
    # Among equal gaps the smaller error; the present choice is always allowed.
    cost = torch.where(wrong <= allowed, gap + 1e-3 * wrong, torch.inf)
    row, column = divmod(int(cost.argmin()), cost.shape[1])
    found = list(best)
    found[chosen[0]] = row
    if chosen[0] != chosen[1]:
        found[chosen[1]] = column
    return found


def _curves(
    margins: Tensor,
    groups: Tensor,
    targets: Tensor,
    attribute: Tensor,
    num_groups: int,
    settings: OffsetSettings,
) -> list[_Curves]:
    values = int(attribute.max()) + 1
    cell = one_hot(targets * values + attribute, 2 * values).double()
    # A value without positives or negatives adds nothing to either rate.
    share = cell / cell.sum(0).clamp_min(1)
    curves = []
    for group in range(num_groups):
        own = groups == group
        inside, correct = margins[own], targets[own] == 1
        offsets = _candidates(inside, settings)
        positive = inside[None] + offsets[:, None] > 0
        curves.append(
            _Curves(
                offsets=offsets,
                rates=(positive.double() @ share[own]).view(-1, 2, values),
                wrong=(positive != correct).sum(1).double() / len(margins),
            )
        )
    return curves


def _candidates(margins: Tensor, settings: OffsetSettings) -> Tensor:
    """0 and the offsets at which evenly many more examples change side."""
    zero = margins.new_zeros(1)
    near = margins[margins.abs() <= settings.largest]
    if not len(near):
        return zero
    places = torch.linspace(0, len(near) - 1, settings.candidates, device=margins.device)
    thresholds = near.sort().values[places.round().long()]
    # Just past the example, so that it changes side whatever the rounding.
    offsets: Tensor = torch.cat([zero, -thresholds - 1e-4])
    return offsets
