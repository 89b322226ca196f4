"""Models as lists of layers: the numbers that each trains and what one example costs in it.

Nothing is built, so that a plan costs nothing either; tests compare with the real modules.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

BACKWARD: Final = 2
"""A backward pass costs so many forward passes: one product for inputs, one for weights."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What is reduced together with one piece of the backward pass.

    Attributes:
        sizes: Numbers in each of its parameters.
        flops: Floating-point operations of a forward pass of one example; a product and a sum are
            two.
        statistics: Numbers in each of its running statistics.
    """

    sizes: tuple[int, ...]
    flops: float
    statistics: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model and what one rank puts through it at once.

    Attributes:
        name: How tables call it.
        layers: In the order of a forward pass.
        examples: Of one rank's slice of a batch.
        unit: What an example is.
    """

    name: str
    layers: tuple[Layer, ...]
    examples: int
    unit: str

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each of its parameters."""
        return tuple(size for layer in self.layers for size in layer.sizes)

    @property
    def statistics(self) -> tuple[int, ...]:
        """Numbers in each of its running statistics."""
        return tuple(size for layer in self.layers for size in layer.statistics)

    @property
    def parameters(self) -> int:
        """How many numbers it trains."""
        return sum(self.sizes)

    @property
    def flops(self) -> float:
        """Operations of a forward pass of one example."""
        return sum(layer.flops for layer in self.layers)


def resnet_18(side: int = 224, classes: int = 1000) -> tuple[Layer, ...]:
    """Return the layers of ResNet-18, each convolution with its BatchNorm.

    Source: He et al., 2016, arXiv 1512.03385.

    >>> sum(sum(layer.sizes) for layer in resnet_18())
    11689512
    """
    return tuple(_resnet(side, classes))


def _resnet(side: int, classes: int) -> Iterator[Layer]:
    side //= 2
    yield _convolution(3, 64, 7, side)
    side //= 2
    before = 64
    for width in (64, 128, 256, 512):
        side //= 1 if width == 64 else 2
        yield _convolution(before, width, 3, side)
        yield _convolution(width, width, 3, side)
        if before != width:
            yield _convolution(before, width, 1, side)
        yield _convolution(width, width, 3, side)
        yield _convolution(width, width, 3, side)
        before = width
    yield _linear(512, classes)


def swin_tiny(side: int = 224, classes: int = 1000) -> tuple[Layer, ...]:
    """Return the layers of Swin-T, norms with the layer behind them.

    Source: Liu et al., 2021, arXiv 2103.14030.

    >>> sum(sum(layer.sizes) for layer in swin_tiny())
    28288354
    """
    return tuple(_swin(side, classes))


def _swin(side: int, classes: int) -> Iterator[Layer]:
    window, width = 7, 96
    tokens = (side // 4) ** 2
    yield Layer(sizes=(48 * width, width, width, width), flops=2 * 48 * width * tokens)
    for stage, (blocks, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24), strict=True)):
        if stage:
            tokens //= 4
            merged = 4 * width
            yield Layer(
                sizes=(merged, merged, merged * 2 * width), flops=2 * merged * 2 * width * tokens
            )
            width *= 2
        for _ in range(blocks):
            bias = (2 * window - 1) ** 2 * heads
            into, out = _linear(width, 3 * width, tokens), _linear(width, width, tokens)
            scores = 2 * 2 * window**2 * width * tokens
            yield Layer(
                sizes=(width, width, bias, *into.sizes, *out.sizes),
                flops=into.flops + out.flops + scores,
            )
            up = _linear(width, 4 * width, tokens)
            yield Layer(sizes=(width, width, *up.sizes), flops=up.flops)
            yield _linear(4 * width, width, tokens)
    head = _linear(width, classes)
    yield Layer(sizes=(width, width, *head.sizes), flops=head.flops)


def transformer(
    *, blocks: int = 20, width: int = 2048, vocabulary: int = 32000, context: int = 2048
) -> tuple[Layer, ...]:
    """Return the layers of a decoder whose output weights are those of its embedding.

    An example is a token. Its cost, but for attention, is two operations a number that it trains.

    Source: Kaplan et al., 2020, arXiv 2001.08361.

    >>> round(sum(sum(layer.sizes) for layer in transformer()) / 1e9, 2)
    1.07
    """
    attention = Layer(
        sizes=(width, 3 * width * width, width * width),
        # Half of the context on average, as a token looks back only.
        flops=2 * 4 * width * width + 2 * 2 * width * context / 2,
    )
    network = Layer(sizes=(width, 8 * width * width), flops=2 * 8 * width * width)
    embedding = Layer(sizes=(vocabulary * width,), flops=2 * vocabulary * width)
    # Gradients of shared weights are ready when those of the first layer are.
    return (embedding, *(attention, network) * blocks)


MODELS: Final[Mapping[str, Callable[[], Model]]] = {
    "ResNet-18": lambda: Model(
        name="ResNet-18", layers=resnet_18(), examples=64, unit="image of 224²"
    ),
    "Swin-T": lambda: Model(name="Swin-T", layers=swin_tiny(), examples=64, unit="image of 224²"),
    "1B": lambda: Model(name="1B", layers=transformer(), examples=8192, unit="token"),
}
"""Models that plans are made for, by name."""


def _convolution(inputs: int, outputs: int, kernel: int, side: int) -> Layer:
    weights = inputs * outputs * kernel * kernel
    return Layer(
        sizes=(weights, outputs, outputs),
        flops=2 * weights * side * side,
        statistics=(outputs, outputs),
    )


def _linear(inputs: int, outputs: int, tokens: int = 1) -> Layer:
    return Layer(sizes=(inputs * outputs, outputs), flops=2 * inputs * outputs * tokens)
