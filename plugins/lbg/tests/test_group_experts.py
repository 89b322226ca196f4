import pytest
import torch
from torch import Tensor, nn

from mlo_lbg.data.dataset import Examples
from mlo_lbg.dispatch import dispatch
from mlo_lbg.group_experts import GroupError, fit_experts
from mlo_lbg.models.perceptron import linear
from mlo_lbg.training import Optimisation


def opposite_rules(count: int = 80) -> tuple[Examples, Tensor]:
    """Points on a line whose label is the sign in group 0 and the opposite in group 1."""
    inputs = torch.linspace(-1, 1, count).unsqueeze(1)
    groups = torch.arange(count) % 2
    targets = ((inputs.squeeze(1) > 0).long() + groups) % 2
    return (
        Examples(inputs=inputs, targets=targets, attribute=groups, num_classes=2, num_attributes=2),
        groups,
    )


def make() -> nn.Module:
    return linear(1, 2)


def test_each_expert_learns_the_rule_of_its_group() -> None:
    examples, groups = opposite_rules()
    experts = fit_experts(examples, groups, make, Optimisation(), num_groups=2, seed=0)
    right = dispatch(list(experts), groups, examples.inputs).argmax(1) == examples.targets
    wrong = dispatch(list(experts), 1 - groups, examples.inputs).argmax(1) != examples.targets
    assert right.float().mean() > 0.95
    assert wrong.float().mean() > 0.95


def test_an_expert_does_not_depend_on_other_groups() -> None:
    examples, groups = opposite_rules()
    changed = Examples(
        inputs=torch.where(groups.unsqueeze(1) == 1, 7.0, examples.inputs),
        targets=examples.targets,
        attribute=examples.attribute,
        num_classes=2,
        num_attributes=2,
    )
    short = Optimisation(epochs=3)
    first = fit_experts(examples, groups, make, short, num_groups=2, seed=0)
    second = fit_experts(changed, groups, make, short, num_groups=2, seed=0)
    assert first[0].weight.equal(second[0].weight)
    assert not first[1].weight.equal(second[1].weight)


def test_empty_and_one_example_groups_do_not_break_batch_norm() -> None:
    examples, groups = opposite_rules(9)
    groups = torch.zeros_like(groups)
    groups[4] = 2

    def with_norm() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    experts = fit_experts(
        examples,
        groups,
        with_norm,
        Optimisation(epochs=2, batch_size=4),
        num_groups=3,
        seed=0,
    )
    assert len(experts) == 3
    assert not any(module.training for module in experts.modules() if module is not experts)
    for expert in experts:
        assert expert(examples.inputs).isfinite().all()


def test_groups_that_do_not_fit_are_named() -> None:
    examples, groups = opposite_rules(10)
    with pytest.raises(GroupError, match=r"groups: expected shape \(10,\), got \(9,\)"):
        fit_experts(examples, groups[1:], make, Optimisation(), num_groups=2, seed=0)
    with pytest.raises(GroupError, match=r"groups: expected values in 0..1, got 0..2"):
        fit_experts(examples, 2 * groups, make, Optimisation(), num_groups=2, seed=0)
