"""Which networks a comparison uses, all at one total size."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mlo_lbg.models import ModelError, budget_hidden, linear, mlp, num_parameters

MakeModule = Callable[[], nn.Module]
"""Builds a freshly initialised network from torch's global random state."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Factories of the networks that methods are built from; totals are within 10% of `budget`.

    Args:
        num_groups: Number of groups, experts and ensemble members.
        budget: Parameters of one gate and `num_groups` experts together.
        make_gate: Inputs to `(batch, num_groups)` logits.
        make_expert: Inputs to `(batch, classes)` logits; one of `num_groups`.
        make_network: Inputs to `(batch, classes)` logits, of the whole budget.
        make_member: The same with `budget / num_groups`, for ensembles.
    """

    num_groups: int
    budget: int
    make_gate: MakeModule
    make_expert: MakeModule
    make_network: MakeModule
    make_member: MakeModule


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
    )
