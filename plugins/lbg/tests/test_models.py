import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo_lbg.architecture import linear_experts
from mlo_lbg.models.perceptron import budget_hidden, linear, mlp
from mlo_lbg.models.size import ModelError, num_parameters


def test_sizes_of_the_digits_demo_are_within_a_tenth() -> None:
    architecture = linear_experts(inputs=64, classes=10, num_groups=2)
    gate, expert = architecture.make_gate(), architecture.make_expert()
    assert num_parameters(gate) + 2 * num_parameters(expert) == architecture.budget == 1430
    assert num_parameters(architecture.make_network()) == 1435
    assert 2 * num_parameters(architecture.make_member()) == 1370


def test_each_call_of_a_factory_makes_another_network() -> None:
    make = linear_experts(inputs=4, classes=3, num_groups=2).make_expert
    first, second = make(), make()
    assert not torch.equal(first(torch.eye(4)), second(torch.eye(4)))


def test_shapes() -> None:
    assert linear(5, 3)(torch.zeros(2, 5)).shape == (2, 3)
    assert mlp(5, 4, 3)(torch.zeros(2, 5)).shape == (2, 3)


@given(inputs=st.integers(1, 200), outputs=st.integers(1, 50), hidden=st.integers(1, 300))
def test_the_budget_of_a_width_gives_that_width(inputs: int, outputs: int, hidden: int) -> None:
    budget = num_parameters(mlp(inputs, hidden, outputs))
    assert budget_hidden(inputs, outputs, budget=budget) == hidden


@given(inputs=st.integers(1, 200), outputs=st.integers(1, 50), budget=st.integers(1, 50_000))
def test_a_width_meets_the_budget_or_is_refused(inputs: int, outputs: int, budget: int) -> None:
    try:
        hidden = budget_hidden(inputs, outputs, budget=budget)
    except ModelError:
        sizes = [num_parameters(mlp(inputs, width, outputs)) for width in (1, 2)]
        unit = sizes[1] - sizes[0]
        nearest = min(abs(sizes[0] + unit * step - budget) for step in range(budget // unit + 2))
        assert nearest > 0.1 * budget
    else:
        assert abs(num_parameters(mlp(inputs, hidden, outputs)) - budget) <= 0.1 * budget


def test_errors_name_the_field() -> None:
    with pytest.raises(ModelError, match=r"budget: .* got 40; the nearest is 85 with h = 1"):
        budget_hidden(64, 10, budget=40)
    with pytest.raises(ModelError, match="num_groups: expected at least 1, got 0"):
        linear_experts(inputs=64, classes=10, num_groups=0)
