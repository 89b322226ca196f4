"""Networks whose hidden channels are experts: each example keeps some and drops the others."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from mlo_lbg.models.cifar_resnet import Block, Blocks, CifarResNet, blocks_of, cifar_resnet_size
from mlo_lbg.models.perceptron import perceptron, perceptron_size, scaled_to
from mlo_lbg.models.size import ModelError, nearest_width

_TOLERANCE = 0.1
"""Largest relative distance from the budget."""


class GatedAnswer(NamedTuple):
    """What a network with gated channels says about a batch.

    Attributes:
        logits: `(batch, classes)` of the gated network.
        shallow: `(batch, classes)` of the embedding alone.
        openness: `()`, the mean of all gates, their L1 norm divided by their number.
    """

    logits: Tensor
    shallow: Tensor
    openness: Tensor


class ChannelGates(nn.Module):
    """`g^l = relu(W^l e)` for every gated layer l, with `e ≥ 0` a shallow embedding of the input.

    Initial weights are not negative, so that every channel starts open; one that is closed for all
    examples gets no gradient any more.

    Args:
        embedding: Inputs to `(batch, features)`.
        features: Size of the embedding.
        channels: Number of channels of each gated layer.
        classes: Outputs of the embedding's own head.
    """

    def __init__(
        self, embedding: nn.Module, *, features: int, channels: Sequence[int], classes: int
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = nn.Linear(features, classes)
        self.channels = list(channels)
        self.weights = nn.Linear(features, sum(channels), bias=False)
        nn.init.uniform_(self.weights.weight, 0, 4 / features)

    def forward(self, inputs: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Inputs to the `(batch, channels)` gates of each layer, shallow logits, and openness."""
        embedded = self.embedding(inputs).relu()
        gates = self.weights(embedded).relu()
        return list(gates.split(self.channels, dim=-1)), self.head(embedded), gates.mean()


class GatedNetwork(nn.Module):
    """Channel gates and the network that they gate; called like any other, it gives its logits.

    Args:
        gates: Inputs to gates.
        gated: `(inputs, gates)` to `(batch, classes)` logits.
    """

    def __init__(self, gates: ChannelGates, gated: nn.Module) -> None:
        super().__init__()
        self.gates = gates
        self.gated = gated

    def answer(self, inputs: Tensor) -> GatedAnswer:
        """Everything that training needs, of `(batch, ...)` inputs."""
        gates, shallow, openness = self.gates(inputs)
        return GatedAnswer(self.gated(inputs, gates), shallow, openness)

    def forward(self, inputs: Tensor) -> Tensor:
        """`(batch, ...)` to `(batch, classes)` logits."""
        return self.answer(inputs).logits


class _GatedPerceptron(nn.Module):
    """Hidden units are multiplied by their gates."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.layers = nn.ModuleList(module for module in network if isinstance(module, nn.Linear))

    def forward(self, inputs: Tensor, gates: list[Tensor]) -> Tensor:
        """`(batch, inputs)` and `(batch, width)` of each hidden layer to `(batch, outputs)`."""
        *hidden, last = self.layers
        units = inputs
        for layer, gate in zip(hidden, gates, strict=True):
            units = gate * layer(units).relu()
        logits: Tensor = last(units)
        return logits


class _GatedCifarResNet(nn.Module):
    """The output of every convolution is gated after its normalisation, which would undo it."""

    def __init__(self, network: CifarResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, gates: list[Tensor]) -> Tensor:
        """Images and the `(batch, channels)` gates of each convolution to `(batch, classes)`."""
        network = self.network
        stem, *others = (gate[:, :, None, None] for gate in gates)
        maps = (stem * network.stem(images)).relu()
        pairs = zip(others[::2], others[1::2], strict=True)
        for block, (first, second) in zip(network.blocks, pairs, strict=True):
            assert isinstance(block, Block)
            inner = (first * block.first(maps)).relu()
            maps = (second * block.second(inner) + block.shortcut(maps)).relu()
        logits: Tensor = network.head(maps.mean((2, 3)))
        return logits


def gated_perceptron(
    *, inputs: int, classes: int, hidden: Sequence[int], budget: int
) -> GatedNetwork:
    """A perceptron with gated hidden units, as wide as the budget allows; one layer embeds.

    A quarter of the widest hidden layer is the size of the embedding.

    Args:
        inputs: Number of input features.
        classes: Number of classes.
        hidden: Relative width of each hidden layer, at least one.
        budget: Wanted number of parameters, embedding and gates included.

    Raises:
        ModelError: If there is no hidden layer, or no width comes within 10% of the budget.

    >>> from mlo_lbg.models.size import num_parameters
    >>> num_parameters(gated_perceptron(inputs=64, classes=10, hidden=(1,), budget=1430))
    1426
    """
    if not hidden or min(hidden) < 1:
        raise ModelError(f"hidden: expected widths of at least 1, got {tuple(hidden)}")

    def features_of(widths: Sequence[int]) -> int:
        return -(-max(widths) // 4)

    def size(widest: int) -> int:
        widths = scaled_to(hidden, widest)
        features = features_of(widths)
        embedding = perceptron_size(inputs, (features,), classes)
        return embedding + features * sum(widths) + perceptron_size(inputs, widths, classes)

    widest = nearest_width(size, budget)
    if abs(size(widest) - budget) > _TOLERANCE * budget:
        raise ModelError(
            f"budget: expected a size that a perceptron with gated units reaches within "
            f"{_TOLERANCE:.0%}, got {budget}; the nearest is {size(widest)}"
        )
    widths = scaled_to(hidden, widest)
    features = features_of(widths)
    gates = ChannelGates(
        nn.Linear(inputs, features), features=features, channels=widths, classes=classes
    )
    return GatedNetwork(gates, _GatedPerceptron(perceptron(inputs, widths, classes)))


def gated_cifar_resnet(*, classes: int, width: int = 16, budget: int) -> GatedNetwork:
    """A CIFAR ResNet with gated channels, as deep as the budget allows; a narrow ResNet-8 embeds.

    The embedding has half the width and twice `width` features.

    Args:
        classes: Number of classes.
        width: Channels of the first stage.
        budget: Wanted number of parameters, embedding and gates included.

    Raises:
        ModelError: If no number of blocks comes within 10% of the budget.

    >>> from mlo_lbg.models.size import size_of
    >>> size_of(lambda: gated_cifar_resnet(classes=10, budget=853_018))
    860236
    """
    narrow, features = -(-width // 2), 2 * width

    def channels_of(blocks: Blocks) -> list[int]:
        pairs = ((width * 2**stage,) * (2 * count) for stage, count in enumerate(blocks))
        return [width, *(channels for pair in pairs for channels in pair)]

    def size(blocks: Blocks) -> int:
        embedding = cifar_resnet_size(blocks_of(8), features, narrow) + (features + 1) * classes
        gates = features * sum(channels_of(blocks))
        return embedding + gates + cifar_resnet_size(blocks, classes, width)

    # The last stage holds most of the parameters: shorter, it makes the steps finer.
    forms: list[Blocks] = [(1, 1, 1)]
    each = 1
    while size((each, each, max(1, each - 3))) < budget:
        each += 1
        forms += [(each, each, last) for last in range(max(1, each - 3), each + 1)]
    blocks = min(forms, key=lambda form: abs(size(form) - budget))
    if abs(size(blocks) - budget) > _TOLERANCE * budget:
        raise ModelError(
            f"budget: expected a size that a CIFAR ResNet of width {width} with gated channels "
            f"reaches within {_TOLERANCE:.0%}, got {budget}; "
            f"the nearest is {size(blocks)} with blocks {blocks}"
        )
    gates = ChannelGates(
        CifarResNet(blocks=blocks_of(8), classes=features, width=narrow),
        features=features,
        channels=channels_of(blocks),
        classes=classes,
    )
    return GatedNetwork(
        gates, _GatedCifarResNet(CifarResNet(blocks=blocks, classes=classes, width=width))
    )
