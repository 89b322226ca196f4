"""Depth is what a budget is met by."""

import pytest
from torch import nn

from mlo_lbg.models.families import cifar_resnets, resnets, swins, t2t_vits
from mlo_lbg.models.size import ModelError, num_parameters
from mlo_lbg.models.sized import Family, Variant, divided, sized


@pytest.mark.parametrize(
    ("share", "label"),
    [(1, "ResNet-56"), (1 / 2, "ResNet-32"), (1 / 3, "ResNet-20"), (1e-6, "ResNet-8")],
)
def test_sized_is_the_nearest_depth(share: float, label: str) -> None:
    assert sized(cifar_resnets(), share, classes=10).label == label


def test_two_groups_of_resnet_56() -> None:
    parts = divided(cifar_resnets(), classes=10, num_groups=2)
    # 809,166 with a gate of 10 outputs, as the networks are published; this gate has 2.
    assert 2 * parts.expert.count(10) + parts.gate.count(10) == 809_166
    assert parts.total == 808_646
    assert parts.row().startswith(
        "GAM ResNet-8 74,770 + 2 x ResNet-26 366,938 = 808,646, 95% of ResNet-56 853,018; "
    )


def test_three_groups_of_resnet_56() -> None:
    parts = divided(cifar_resnets(), classes=10, num_groups=3)
    assert parts.expert.label == "ResNet-20"
    assert 3 * parts.expert.count(10) + parts.gate.count(10) == 884_456


def test_four_groups_of_resnet_56_need_a_form_in_between() -> None:
    parts = divided(cifar_resnets(), classes=10, num_groups=4)
    assert parts.expert.label == "ResNet-18 [3,3,2]"
    loose = divided(cifar_resnets(), classes=10, num_groups=4, tolerance=0.11)
    assert loose.expert.label == "ResNet-14"
    assert 4 * loose.expert.count(10) + loose.gate.count(10) == 765_314


FAMILIES = {
    "cifar": (cifar_resnets(), 10),
    "shallow cifar": (cifar_resnets(depth=32, gate_width=8), 10),
    "resnet": (resnets(), 2),
    "swin": (swins(), 1000),
    "t2t": (t2t_vits(), 1000),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("num_groups", [1, 2, 3, 4])
def test_totals_are_within_a_tenth(name: str, num_groups: int) -> None:
    family, classes = FAMILIES[name]
    parts = divided(family, classes=classes, num_groups=num_groups)
    budget = family.baseline.count(classes)
    assert abs(parts.total - budget) <= 0.1 * budget
    assert abs(num_groups * parts.member.count(classes) - budget) <= 0.1 * budget


def test_one_group_is_the_baseline() -> None:
    family = cifar_resnets(depth=20, width=4)
    parts = divided(family, classes=10, num_groups=1)
    assert parts.expert is parts.member is parts.baseline is family.baseline
    assert num_parameters(parts.gate.build(1)) == parts.gate.count(1) == 4


def test_counts_are_those_of_the_networks() -> None:
    family = cifar_resnets(depth=20, width=4)
    for variant in (*family.variants, *family.between, family.gate):
        assert num_parameters(variant.build(5)) == variant.count(5), variant.label


def test_errors_tell_the_nearest_total() -> None:
    with pytest.raises(ModelError, match=r"num_groups: .* got 4; the nearest total is 376,060"):
        divided(cifar_resnets(depth=20), classes=10, num_groups=4)
    with pytest.raises(ModelError, match="num_groups: expected at least 1, got 0"):
        divided(cifar_resnets(), classes=10, num_groups=0)
    with pytest.raises(ModelError, match="share: expected a number above 0, got 0"):
        sized(cifar_resnets(), 0, classes=10)
    with pytest.raises(ModelError, match=r"depth: .* got 58; did you mean 56"):
        cifar_resnets(depth=58)
    with pytest.raises(ModelError, match="variants: expected at least one"):
        Family(variants=(), gate=Variant(label="x", build=lambda n: nn.Linear(1, n)))
