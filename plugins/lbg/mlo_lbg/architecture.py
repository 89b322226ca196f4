"""Which networks a comparison uses, all at one total size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from mlo_lbg.data.collection import Channels
from mlo_lbg.models.gated import gated_perceptron
from mlo_lbg.models.normalised import Normalised
from mlo_lbg.models.perceptron import (
    budget_hidden,
    budget_widths,
    linear,
    mlp,
    perceptron,
    perceptron_size,
)
from mlo_lbg.models.size import ModelError, num_parameters
from mlo_lbg.models.sized import TOLERANCE, Family, Variant, divided

MakeModule = Callable[[], nn.Module]
"""Builds a freshly initialised network from torch's global random state."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Factories of the networks that methods are built from; totals are within 10% of `budget`.

    Args:
        num_groups: Number of groups, experts and ensemble members.
        budget: Parameters that each method has, near those of one gate and `num_groups` experts.
        make_gate: Inputs to `(batch, num_groups)` logits.
        make_expert: Inputs to `(batch, classes)` logits; one of `num_groups`.
        make_network: Inputs to `(batch, classes)` logits, of the whole budget.
        make_member: The same with about `budget / num_groups`, for ensembles.
        make_gated: A `models.gated.GatedNetwork`, or one behind a `Normalised`, of the whole
            budget; None where none is known.
        row: The counts in one line, for people.
    """

    num_groups: int
    budget: int
    make_gate: MakeModule
    make_expert: MakeModule
    make_network: MakeModule
    make_member: MakeModule
    make_gated: MakeModule | None = None
    row: str = ""


def linear_experts(*, inputs: int, classes: int, num_groups: int) -> Architecture:
    """Linear gate and linear experts against multilayer perceptrons of the same total size.

    Args:
        inputs: Number of input features.
        classes: Number of classes.
        num_groups: Number of groups, at least 1.

    Raises:
        ModelError: If `num_groups` is below 1, or no perceptron meets the budget within 10%.

    >>> architecture = linear_experts(inputs=64, classes=10, num_groups=2)
    >>> architecture.budget, num_parameters(architecture.make_network())
    (1430, 1435)
    """
    if num_groups < 1:
        raise ModelError(f"num_groups: expected at least 1, got {num_groups}")
    gate = num_parameters(linear(inputs, num_groups))
    expert = num_parameters(linear(inputs, classes))
    budget = gate + num_groups * expert
    network_hidden = budget_hidden(inputs, classes, budget=budget)
    member_hidden = budget_hidden(inputs, classes, budget=budget // num_groups)
    return Architecture(
        num_groups=num_groups,
        budget=budget,
        make_gate=lambda: linear(inputs, num_groups),
        make_expert=lambda: linear(inputs, classes),
        make_network=lambda: mlp(inputs, network_hidden, classes),
        make_member=lambda: mlp(inputs, member_hidden, classes),
        make_gated=lambda: gated_perceptron(
            inputs=inputs, classes=classes, hidden=(1,), budget=budget
        ),
        row=_row(
            ("linear", gate),
            (num_groups, "linear", expert),
            (f"MLP {network_hidden}", perceptron_size(inputs, (network_hidden,), classes)),
        ),
    )


def perceptrons(
    *,
    inputs: int,
    classes: int,
    num_groups: int,
    hidden: Sequence[int],
    gate_hidden: Sequence[int] = (),
    budget: int | None = None,
) -> Architecture:
    """Perceptrons for tables: `parameters of the gate + K · parameters of an expert ≈ budget`.

    The baseline has the given hidden layers; experts and members as many, in the same proportions,
    but narrower. One group is the baseline itself with a gate of one linear unit.

    Args:
        inputs: Number of input features.
        classes: Number of classes.
        num_groups: Number of groups, at least 1.
        hidden: Width of each hidden layer of the baseline, at least one layer.
        gate_hidden: The same of the gate; a linear gate by default.
        budget: Wanted number of parameters, for which the baseline's layers are scaled in
            proportion; by default those of the baseline as given.

    Raises:
        ModelError: If a number is below 1, or no widths meet the budget within 10%.

    >>> architecture = perceptrons(inputs=100, classes=2, num_groups=2, hidden=(64, 32))
    >>> print(architecture.row)
    GAM linear 202 + 2 x MLP 35-18 4,221 = 8,644, 100% of MLP 64-32 8,610
    """
    if num_groups < 1:
        raise ModelError(f"num_groups: expected at least 1, got {num_groups}")
    if not hidden or min(hidden) < 1:
        raise ModelError(f"hidden: expected widths of at least 1, got {tuple(hidden)}")
    if budget is not None:
        hidden = budget_widths(inputs, classes, shape=hidden, budget=budget)
    total = perceptron_size(inputs, hidden, classes) if budget is None else budget
    widths = expert = member = tuple(hidden)
    gate = tuple(gate_hidden) if num_groups > 1 else ()
    gate_size = perceptron_size(inputs, gate, num_groups)
    if num_groups > 1:
        rest = total - gate_size
        if rest < num_groups:
            raise ModelError(
                f"gate_hidden: expected a gate that leaves parameters for {num_groups} experts, "
                f"got {gate_size} of {total} for it"
            )
        expert = budget_widths(
            inputs,
            classes,
            shape=widths,
            budget=rest // num_groups,
            tolerance=TOLERANCE * total / rest,
        )
        member = budget_widths(inputs, classes, shape=widths, budget=total // num_groups)
    return Architecture(
        num_groups=num_groups,
        budget=total,
        make_gate=lambda: perceptron(inputs, gate, num_groups),
        make_expert=lambda: perceptron(inputs, expert, classes),
        make_network=lambda: perceptron(inputs, widths, classes),
        make_member=lambda: perceptron(inputs, member, classes),
        make_gated=lambda: gated_perceptron(
            inputs=inputs, classes=classes, hidden=widths, budget=total
        ),
        row=_row(
            (_label(gate), gate_size),
            (num_groups, _label(expert), perceptron_size(inputs, expert, classes)),
            (_label(widths), perceptron_size(inputs, widths, classes)),
        ),
    )


def _label(hidden: Sequence[int]) -> str:
    return f"MLP {'-'.join(map(str, hidden))}" if hidden else "linear"


def _row(gate: tuple[str, int], experts: tuple[int, str, int], baseline: tuple[str, int]) -> str:
    """The counts in one line, in the form of `models.sized.Parts.row`."""
    count, label, size = experts
    total = gate[1] + count * size
    return (
        f"GAM {gate[0]} {gate[1]:,} + {count} x {label} {size:,} = {total:,}, "
        f"{total / baseline[1]:.0%} of {baseline[0]} {baseline[1]:,}"
    )


def from_family(
    family: Family, *, classes: int, num_groups: int, channels: Channels
) -> Architecture:
    """Networks for images of bytes: the family's baseline, K shallower experts and its gate.

    Every network normalises its images first. One group is the baseline itself with a gate of one
    linear unit. The budget is the size of the baseline; an ensemble may lie further from it than
    10% where depth is coarse, as `row` tells.

    Args:
        family: What networks there are.
        classes: Number of classes.
        num_groups: Number of groups, at least 1.
        channels: Statistics of the training images.

    Raises:
        ModelError: If `num_groups` is below 1, or no gate and experts meet the budget within 10%.

    >>> from mlo_lbg.models.families import cifar_resnets
    >>> grey = Channels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> architecture = from_family(cifar_resnets(), classes=10, num_groups=2, channels=grey)
    >>> architecture.budget, architecture.row.partition(";")[0]
    (853018, 'GAM ResNet-8 74,770 + 2 x ResNet-26 366,938 = 808,646, 95% of ResNet-56 853,018')
    """
    parts = divided(family, classes=classes, num_groups=num_groups)
    budget = parts.baseline.count(classes)

    def make(variant: Variant, outputs: int) -> MakeModule:
        return lambda: Normalised(variant.build(outputs), channels)

    gated = family.gated
    return Architecture(
        num_groups=num_groups,
        budget=budget,
        make_gate=make(parts.gate, num_groups),
        make_expert=make(parts.expert, classes),
        make_network=make(parts.baseline, classes),
        make_member=make(parts.member, classes),
        make_gated=None if gated is None else lambda: Normalised(gated(classes, budget), channels),
        row=parts.row(),
    )
