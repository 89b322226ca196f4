"""One trained method on one test set: every number that a comparison shows."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from mlo_lbg.data.dataset import Examples
from mlo_lbg.diagnostics import contingency, load, nmi
from mlo_lbg.fairness import Fairness, fairness
from mlo_lbg.predictors import Predictor


@runtime_checkable
class Untold(Protocol):
    """A trained method that predicts only once it is told the attribute of the examples."""

    def told(self, attribute: Tensor, /) -> Predictor:
        """`(examples,)` attribute values to the predictor for exactly these examples."""
        ...


Trained = Predictor | Untold
"""What training a method returns."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """What the groups of a test set coincide with.

    Attributes:
        nmi_attribute: Normalised mutual information of group and attribute.
        nmi_label: Normalised mutual information of group and true class.
        load: Share of the examples in each group.
        by_attribute: Counts, one row per group and one column per attribute value.
    """

    nmi_attribute: float
    nmi_label: float
    load: tuple[float, ...]
    by_attribute: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measurements of one trained method on one test set.

    Attributes:
        fairness: Errors and gaps between attribute values.
        groups: None for a method that forms no groups.
        num_parameters: Number of scalars that prediction needs.
        told_attribute: Whether the method was told the attribute of the test examples.
    """

    fairness: Fairness
    groups: Groups | None
    num_parameters: int
    told_attribute: bool

    def columns(self) -> dict[str, float | None]:
        """One number per column of a comparison; None where the method has no groups."""
        groups = self.groups
        return {
            "error": self.fairness.error,
            "worst_group_error": self.fairness.worst_group_error,
            "demographic_parity": self.fairness.demographic_parity.mean,
            "equalized_odds": self.fairness.equalized_odds.mean,
            "equal_opportunity": self.fairness.equal_opportunity.mean,
            "average_odds": self.fairness.average_odds.mean,
            "nmi_attribute": groups.nmi_attribute if groups else None,
            "nmi_label": groups.nmi_label if groups else None,
            "largest_load": max(groups.load) if groups else None,
            "num_parameters": float(self.num_parameters),
        }


def evaluate(trained: Trained, examples: Examples, *, num_groups: int) -> Evaluation:
    """Predict every example and measure errors, gaps between attribute values, and groups.

    Args:
        trained: A predictor, or experts that must be told the attribute; then, and only then, the
            attribute takes part in predicting.
        examples: Test examples.
        num_groups: Number of groups that the method could use.

    >>> import torch
    >>> from mlo_lbg.predictors import OneNetwork
    >>> examples = Examples(
    ...     inputs=torch.eye(2), targets=torch.tensor([0, 1]), attribute=torch.tensor([0, 1]),
    ...     num_classes=2, num_attributes=2,
    ... )
    >>> evaluate(OneNetwork(network=torch.nn.Identity()), examples, num_groups=2).fairness.error
    0.0
    """
    told_attribute = isinstance(trained, Untold)
    predictor = trained.told(examples.attribute) if isinstance(trained, Untold) else trained
    possible = examples.num_attributes if told_attribute else num_groups
    found = predictor.groups(examples.inputs)
    return Evaluation(
        fairness=fairness(
            predictor.predict(examples.inputs),
            examples.targets,
            examples.attribute,
            num_classes=examples.num_classes,
            num_attributes=examples.num_attributes,
        ),
        groups=None if found is None else _describe(found, examples, possible),
        num_parameters=predictor.num_parameters,
        told_attribute=told_attribute,
    )


def _describe(groups: Tensor, examples: Examples, num_groups: int) -> Groups:
    counts = contingency(groups, examples.attribute, num_groups, examples.num_attributes)
    return Groups(
        nmi_attribute=nmi(groups, examples.attribute),
        nmi_label=nmi(groups, examples.targets),
        load=tuple(load(groups, num_groups).tolist()),
        by_attribute=tuple(tuple(row) for row in counts.tolist()),
    )
