"""What the image networks compute."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mlo_lbg.dispatch import dispatch
from mlo_lbg.models.cifar_resnet import Block, CifarResNet
from mlo_lbg.models.pretrained import load_common
from mlo_lbg.models.resnet import resnet
from mlo_lbg.models.size import ModelError
from mlo_lbg.models.swin import swin
from mlo_lbg.models.t2t_vit import RandomFeatureAttention, T2tVit, sinusoids

SMALL: dict[str, Callable[[], nn.Module]] = {
    "cifar": lambda: CifarResNet(blocks=(1, 1, 1), classes=3, width=4),
    "resnet": lambda: resnet(classes=3, blocks=(1, 1)),
    "swin": lambda: swin(classes=3, blocks=(1, 1)),
    "t2t": lambda: T2tVit(classes=3, depth=1, image_size=32),
}


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = SMALL[name]()
    logits = network(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    for parameter, tensor in network.named_parameters():
        assert tensor.grad is not None, parameter
        assert tensor.grad.isfinite().all(), parameter
    touched = [tensor.grad.abs().max() > 0 for tensor in network.parameters()]
    assert sum(touched) >= len(touched) - 1


@pytest.mark.parametrize("name", SMALL)
def test_a_row_does_not_depend_on_the_others_in_evaluation(name: str) -> None:
    network = SMALL[name]().eval()
    images = torch.randn(3, 3, 32, 32)
    together = network(images)
    assert torch.allclose(together[1:2], network(images[1:2]), atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_single_row_in_training_breaks_no_normalisation(name: str) -> None:
    experts = nn.ModuleList([SMALL[name](), SMALL[name]()])
    outputs = dispatch(list(experts), torch.tensor([0, 1, 0]), torch.randn(3, 3, 32, 32))
    assert outputs.isfinite().all()
    outputs.sum().backward()
    assert all(module.training for module in experts)


@pytest.mark.parametrize("name", ["cifar", "t2t"])
def test_second_derivatives_exist(name: str) -> None:
    network = SMALL[name]()
    parameters = list(network.parameters())
    loss = network(torch.randn(4, 3, 32, 32)).square().sum()
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    second = torch.autograd.grad(sum(one.square().sum() for one in first), parameters)
    assert any(one.abs().max() > 0 for one in second)


def test_shortcut_is_every_second_pixel_and_zeros() -> None:
    inputs = torch.randn(2, 4, 6, 6)
    shortcut = Block(4, 8, 2).shortcut(inputs)
    assert shortcut.shape == (2, 8, 3, 3)
    assert shortcut[:, :4].equal(inputs[:, :, ::2, ::2])
    assert not shortcut[:, 4:].any()


def test_attention_of_linear_cost_is_attention_with_positive_weights() -> None:
    module = RandomFeatureAttention(9, dropout=0.0)
    nn.init.normal_(module.key_query_value.weight, std=0.1)
    tokens = torch.randn(2, 5, 9)
    key, query, value = module.key_query_value(module.norm(tokens)).chunk(3, dim=-1)
    directions = module.directions
    assert torch.allclose(directions @ directions.T, 32 * torch.eye(32), atol=1e-4)
    # φ(q)·φ(k), written out for each pair of tokens.
    exponent = (query.unsqueeze(2) + key.unsqueeze(1)) @ directions.T
    lengths = query.square().sum(-1).unsqueeze(2) + key.square().sum(-1).unsqueeze(1)
    weights = (exponent - lengths.unsqueeze(-1) / 2).exp().mean(-1)
    attended = value + module.mix(weights / weights.sum(-1, keepdim=True) @ value)
    expected = attended + module.perceptron(attended)
    assert torch.allclose(module(tokens), expected, atol=1e-5)


def test_position_embeddings_are_not_trained() -> None:
    network = T2tVit(classes=2, depth=1, image_size=32)
    fixed = {name for name, _ in network.named_buffers()}
    assert "positions" in fixed
    assert sum(name.endswith("directions") for name in fixed) == 2
    assert network.positions.equal(sinusoids(5, 384))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ModelError, match=r"height and width 32 .* got \(48, 48\)"):
        T2tVit(classes=2, depth=1, image_size=32)(torch.zeros(1, 3, 48, 48))


def _changed(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in network.state_dict().items()}


def test_a_shallower_form_takes_over_the_first_blocks() -> None:
    published = _changed(resnet(classes=1000, blocks=(2, 2)))
    small = resnet(classes=3, blocks=(1, 1))
    head = small.fc.weight.clone()
    load_common(small, published, differing=["fc"])
    assert small.layer2[0].conv1.weight.equal(published["layer2.0.conv1.weight"])
    assert small.fc.weight.equal(head)


def test_a_published_head_of_the_same_size_is_taken() -> None:
    published = _changed(resnet(classes=3, blocks=(1,)))
    network = resnet(classes=3, blocks=(1,))
    load_common(network, published, differing=["fc"])
    assert network.fc.weight.equal(published["fc.weight"])


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ModelError, match=r"conv1.weight: expected published weights of shape"):
        load_common(
            resnet(classes=3, blocks=(1,)), {"conv1.weight": torch.zeros(1)}, differing=["fc"]
        )
    with pytest.raises(ModelError, match=r"published: expected weights named like conv1.weight"):
        load_common(resnet(classes=3, blocks=(1,)), {"other": torch.zeros(1)}, differing=["fc"])
