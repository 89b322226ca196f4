"""Networks whose channels are experts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo_lbg.models.cifar_resnet import CifarResNet
from mlo_lbg.models.gated import (
    ChannelGates,
    GatedNetwork,
    gated_cifar_resnet,
    gated_perceptron,
)
from mlo_lbg.models.size import ModelError, num_parameters, size_of


def small(budget: int = 20_000) -> GatedNetwork:
    return gated_cifar_resnet(classes=3, width=4, budget=budget)


def set_gates(network: GatedNetwork, value: float) -> None:
    """Every gate becomes `value`, whatever the input."""
    embed = network.gates.embedding
    head = embed.head if isinstance(embed, CifarResNet) else embed
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.ones_(head.bias)
    torch.nn.init.constant_(network.gates.weights.weight, value / len(head.bias))


@given(budget=st.integers(600, 60_000), layers=st.integers(1, 3))
def test_a_gated_perceptron_meets_its_budget_or_is_refused(budget: int, layers: int) -> None:
    try:
        size = size_of(
            lambda: gated_perceptron(inputs=30, classes=2, hidden=(2,) * layers, budget=budget)
        )
    except ModelError:
        # One unit more is a large step only where networks are tiny.
        assert budget < 3_000
    else:
        assert abs(size - budget) <= 0.1 * budget


@pytest.mark.parametrize("budget", [853_018, 269_722, 1_727_962])
def test_a_gated_cifar_resnet_meets_its_budget(budget: int) -> None:
    size = size_of(lambda: gated_cifar_resnet(classes=10, budget=budget))
    assert abs(size - budget) <= 0.1 * budget


def test_open_gates_leave_the_network_as_it_is() -> None:
    network = small().eval()
    set_gates(network, 1.0)
    images = torch.randn(2, 3, 16, 16)
    plain = network.gated.network
    assert isinstance(plain, CifarResNet)
    assert torch.allclose(network(images), plain(images), atol=1e-5)


def test_open_gates_leave_a_perceptron_as_it_is() -> None:
    network = gated_perceptron(inputs=4, classes=2, hidden=(2, 1), budget=300)
    set_gates(network, 1.0)
    inputs = torch.randn(5, 4)
    first, second, last = network.gated.layers
    assert torch.allclose(network(inputs), last(second(first(inputs).relu()).relu()), atol=1e-6)


def test_closed_gates_close_the_network() -> None:
    for network, inputs in (
        (small().eval(), torch.randn(3, 3, 16, 16)),
        (gated_perceptron(inputs=4, classes=2, hidden=(1,), budget=300), torch.randn(3, 4)),
    ):
        set_gates(network, 0.0)
        logits = network(inputs)
        assert torch.allclose(logits[0], logits[1])
        assert network.answer(inputs).openness == 0


def test_gates_start_open_and_learn() -> None:
    torch.manual_seed(0)
    network = small()
    answer = network.answer(torch.randn(4, 3, 16, 16))
    assert answer.shallow.shape == answer.logits.shape == (4, 3)
    assert answer.openness > 0.1
    answer.logits.square().sum().backward()
    for tensor in (network.gates.weights.weight, next(network.gates.embedding.parameters())):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 0


def test_openness_is_the_mean_of_all_gates() -> None:
    gates = ChannelGates(torch.nn.Linear(2, 4), features=4, channels=(3, 5), classes=2)
    values, shallow, openness = gates(torch.randn(6, 2))
    assert [tuple(one.shape) for one in values] == [(6, 3), (6, 5)]
    assert min(one.min() for one in values) >= 0
    assert torch.isclose(openness, torch.cat(values, dim=-1).mean())
    assert shallow.shape == (6, 2)


def test_errors_name_the_field() -> None:
    with pytest.raises(ModelError, match=r"budget: .* got 20; the nearest is"):
        gated_perceptron(inputs=30, classes=2, hidden=(1,), budget=20)
    with pytest.raises(ModelError, match=r"hidden: .* got \(\)"):
        gated_perceptron(inputs=30, classes=2, hidden=(), budget=2000)
    with pytest.raises(ModelError, match=r"budget: .* got 900; the nearest is .* \(1, 1, 1\)"):
        gated_cifar_resnet(classes=2, budget=900)
    assert num_parameters(small()) > 0
