"""Everything that methods are built from has one size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo_lbg.architecture import Architecture, from_family, linear_experts, perceptrons
from mlo_lbg.data.collection import Channels
from mlo_lbg.models.families import cifar_resnets
from mlo_lbg.models.size import ModelError, num_parameters

GREY = Channels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def totals(architecture: Architecture) -> dict[str, int]:
    groups = architecture.num_groups
    assert architecture.make_gated is not None
    return {
        "groups": num_parameters(architecture.make_gate())
        + groups * num_parameters(architecture.make_expert()),
        "network": num_parameters(architecture.make_network()),
        "ensemble": groups * num_parameters(architecture.make_member()),
        "gated": num_parameters(architecture.make_gated()),
    }


@settings(max_examples=30, deadline=None)
@given(
    inputs=st.integers(10, 120),
    classes=st.integers(2, 10),
    num_groups=st.integers(1, 4),
    hidden=st.lists(st.integers(40, 80), min_size=1, max_size=3),
)
def test_perceptrons_are_within_a_tenth(
    inputs: int, classes: int, num_groups: int, hidden: list[int]
) -> None:
    architecture = perceptrons(inputs=inputs, classes=classes, num_groups=num_groups, hidden=hidden)
    for name, size in totals(architecture).items():
        assert abs(size - architecture.budget) <= 0.1 * architecture.budget, name


def test_a_budget_scales_all_perceptrons() -> None:
    architecture = perceptrons(inputs=100, classes=2, num_groups=2, hidden=(2, 1), budget=7489)
    for name, size in totals(architecture).items():
        assert abs(size - 7489) <= 0.1 * 7489, name
    assert architecture.budget == 7489


def test_the_gate_may_have_hidden_layers() -> None:
    architecture = perceptrons(inputs=20, classes=2, num_groups=3, hidden=(64,), gate_hidden=(8,))
    gate = architecture.make_gate()
    assert num_parameters(gate) == 20 * 8 + 8 + 8 * 3 + 3
    assert gate(torch.zeros(5, 20)).shape == (5, 3)


def test_one_group_of_perceptrons_is_the_baseline() -> None:
    architecture = perceptrons(
        inputs=20, classes=2, num_groups=1, hidden=(64, 32), gate_hidden=(8,)
    )
    assert str(architecture.make_expert()) == str(architecture.make_network())
    assert num_parameters(architecture.make_gate()) == 21


def test_images_go_in_as_bytes() -> None:
    family = cifar_resnets(depth=20, width=4)
    architecture = from_family(family, classes=5, num_groups=2, channels=GREY)
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    assert architecture.make_gate()(images).shape == (3, 2)
    for make in (
        architecture.make_expert,
        architecture.make_network,
        architecture.make_member,
        architecture.make_gated,
    ):
        assert make is not None
        assert make()(images).shape == (3, 5)
        assert make()(images).dtype == torch.float32
    trivial = from_family(family, classes=5, num_groups=1, channels=GREY).make_gate()
    assert trivial(images).shape == (3, 1)


def test_image_networks_are_within_a_tenth() -> None:
    architecture = from_family(cifar_resnets(), classes=10, num_groups=2, channels=GREY)
    with torch.device("meta"):
        for name, size in totals(architecture).items():
            assert abs(size - 853_018) <= 0.1 * 853_018, name


def test_linear_experts_have_a_gated_rival() -> None:
    sizes = totals(linear_experts(inputs=64, classes=10, num_groups=2))
    assert all(abs(size - 1430) <= 143 for size in sizes.values())


def test_errors_name_the_field() -> None:
    with pytest.raises(ModelError, match="num_groups: expected at least 1, got 0"):
        perceptrons(inputs=4, classes=2, num_groups=0, hidden=(4,))
    with pytest.raises(ModelError, match=r"hidden: .* got \(\)"):
        perceptrons(inputs=4, classes=2, num_groups=2, hidden=())
    with pytest.raises(ModelError, match=r"gate_hidden: .* for 2 experts, got 1304 of 30"):
        perceptrons(inputs=4, classes=2, num_groups=2, hidden=(4,), gate_hidden=(186,))
    with pytest.raises(ModelError, match=r"budget: .* got 9; the nearest is"):
        perceptrons(inputs=40, classes=2, num_groups=2, hidden=(4,), budget=9)
