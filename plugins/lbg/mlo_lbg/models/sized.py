"""A network, K smaller forms of it and a gate, all within one parameter budget."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from mlo_lbg.models.size import ModelError, size_of

TOLERANCE = 0.1
"""Largest relative distance of a total from the size of the network that it competes with."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One form of a network, whatever its number of outputs.

    Attributes:
        label: Its name in tables.
        build: Number of outputs to a freshly initialised network.
        size: Number of outputs to number of parameters, where there is a formula.
    """

    label: str
    build: Callable[[int], nn.Module]
    size: Callable[[int], int] | None = None

    def count(self, outputs: int) -> int:
        """Number of parameters with so many outputs; no weights are made.

        >>> Variant(label="linear", build=lambda outputs: nn.Linear(9, outputs)).count(2)
        20
        """
        return _count(self, outputs)


@lru_cache(maxsize=1024)
def _count(variant: Variant, outputs: int) -> int:
    if variant.size is not None:
        return variant.size(outputs)
    return size_of(lambda: variant.build(outputs))


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks of one kind that differ in depth; the last variant is the baseline.

    Attributes:
        variants: The usual forms, from small to large.
        gate: The form of the group assignment model.
        between: Forms of unusual depth, tried only where no usual one meets a budget.
        gated: Number of classes and of parameters to a `GatedNetwork`; None where none is known.

    Raises:
        ModelError: If there are no variants.
    """

    variants: tuple[Variant, ...]
    gate: Variant
    between: tuple[Variant, ...] = ()
    gated: Callable[[int, int], nn.Module] | None = None

    def __post_init__(self) -> None:
        if not self.variants:
            raise ModelError("variants: expected at least one, got none")

    @property
    def baseline(self) -> Variant:
        """The network that everything else is sized against."""
        return self.variants[-1]


def sized(family: Family, share: float, *, classes: int) -> Variant:
    """`argmin_v |parameters of v − share · parameters of the baseline|` over the usual variants.

    Args:
        family: What is chosen from.
        share: Wanted part of the baseline's parameters, above 0.
        classes: Number of outputs of both.

    Raises:
        ModelError: If the share is not above 0.

    >>> layers = [Variant(label=f"{n}", build=lambda c, n=n: nn.Linear(n, c)) for n in (1, 4, 9)]
    >>> sized(Family(variants=tuple(layers), gate=layers[0]), 1 / 2, classes=2).label
    '4'
    """
    if not share > 0:
        raise ModelError(f"share: expected a number above 0, got {share}")
    target = share * family.baseline.count(classes)
    return min(family.variants, key=lambda variant: abs(variant.count(classes) - target))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What K groups are made of, and what they compete with.

    Attributes:
        num_groups: Number of experts K.
        classes: Outputs of the baseline and of each expert.
        baseline: The single network.
        gate: The group assignment model with K outputs.
        expert: One of K.
        member: One of K networks of an ensemble, which needs no gate.
    """

    num_groups: int
    classes: int
    baseline: Variant
    gate: Variant
    expert: Variant
    member: Variant

    @property
    def total(self) -> int:
        """Parameters of the gate and all experts."""
        experts = self.num_groups * self.expert.count(self.classes)
        return self.gate.count(self.num_groups) + experts

    def row(self) -> str:
        """Every count in one line.

        >>> one = Variant(label="small", build=lambda outputs: nn.Linear(9, outputs))
        >>> two = Variant(label="large", build=lambda outputs: nn.Linear(24, outputs))
        >>> Parts(num_groups=2, classes=3, baseline=two, gate=one, expert=one, member=one).row()
        'GAM small 20 + 2 x small 30 = 80, 107% of large 75; ensemble 2 x small = 60, 80%'
        """
        experts, baseline = self.expert.count(self.classes), self.baseline.count(self.classes)
        ensemble = self.num_groups * self.member.count(self.classes)
        return (
            f"GAM {self.gate.label} {self.gate.count(self.num_groups):,} + "
            f"{self.num_groups} x {self.expert.label} {experts:,} = {self.total:,}, "
            f"{self.total / baseline:.0%} of {self.baseline.label} {baseline:,}; "
            f"ensemble {self.num_groups} x {self.member.label} = {ensemble:,}, "
            f"{ensemble / baseline:.0%}"
        )


MEAN_COLOUR = Variant(
    label="mean colour",
    build=lambda outputs: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, outputs)
    ),
)
"""The gate where there is nothing to decide: 4 parameters for one group."""


def divided(
    family: Family, *, classes: int, num_groups: int, tolerance: float = TOLERANCE
) -> Parts:
    """Gate and K experts whose total is the nearest to the baseline's parameters.

    Usual variants come first: forms in between are looked at only if no usual one is within the
    tolerance. One group is the baseline itself with a gate of one linear unit on the mean colour.
    Members of an ensemble are the nearest that there are, which may lie outside the tolerance
    where depth is coarse: `Parts.row` tells.

    Args:
        family: What the parts are chosen from.
        classes: Number of classes.
        num_groups: Number of groups, at least 1.
        tolerance: Largest allowed relative distance from the baseline's parameters.

    Raises:
        ModelError: If `num_groups` is below 1, or no variant comes within the tolerance.

    >>> forms = [Variant(label=f"{n}", build=lambda c, n=n: nn.Linear(n, c)) for n in (1, 4, 9)]
    >>> divided(Family(variants=tuple(forms), gate=forms[0]), classes=9, num_groups=2).expert.label
    '4'
    """
    if num_groups < 1:
        raise ModelError(f"num_groups: expected at least 1, got {num_groups}")
    baseline = family.baseline
    gate = family.gate if num_groups > 1 else MEAN_COLOUR
    budget = baseline.count(classes)
    room = tolerance * budget

    def nearest(rest: int) -> tuple[Variant, int]:
        """The variant of which K copies and a rest are nearest to the budget; that total."""

        def among(candidates: tuple[Variant, ...]) -> tuple[Variant, int]:
            totals = [(one, rest + num_groups * one.count(classes)) for one in candidates]
            return min(totals, key=lambda pair: abs(pair[1] - budget))

        usual = among(family.variants)
        return usual if abs(usual[1] - budget) <= room else among(family.variants + family.between)

    expert, total = nearest(gate.count(num_groups))
    if abs(total - budget) > room:
        raise ModelError(
            f"num_groups: expected a number for which gate and experts come within {tolerance:.0%} "
            f"of {baseline.label}'s {budget:,} parameters, got {num_groups}; "
            f"the nearest total is {total:,} with {num_groups} x {expert.label}"
        )
    member, _ = nearest(0)
    return Parts(
        num_groups=num_groups,
        classes=classes,
        baseline=baseline,
        gate=gate,
        expert=expert,
        member=member,
    )
