"""The bilevel programs that are timed: ordinary PyTorch parts, of which every variant is built."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlo.errors import MloError

Batch = tuple[Tensor, Tensor]
"""`(batch, inputs)` inputs and `(batch,)` classes."""

MODEL, UPPER = "model", "upper"
"""Names of the two problems."""
INPUTS, CLASSES = 784, 10
INPUT_SCALE = 0.25
"""Standard deviation of an input; the length of one example is then about that of a digit."""
RATE = 2.0**-4
"""Of the lower problem; a power of two, as scaling by it rounds nothing, in whatever order."""
WIDTHS = {
    "1k": (INPUTS // 49, 40),
    "94k": (INPUTS, 110, 64),
    "1M": (INPUTS, 900, 300),
    "10M": (INPUTS, 2560, 2560, 480),
}
"""Input and hidden widths by the number of parameters that they come to."""


class BenchmarkError(MloError):
    """A measurement would compare things that are not equal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A bilevel program, undeclared.

    Attributes:
        model: The lower module.
        upper: The upper module.
        train_loss: ``(model, upper, batch) -> loss`` of the lower problem.
        valid_loss: Loss of the upper problem, called by keyword.
        valid_reads: The problems that it reads.
        train: Batches of the lower problem.
        valid: Batches of the upper problem.
        rate: Learning rate of the lower SGD.
        upper_rate: Learning rate of the upper SGD.
    """

    model: nn.Module
    upper: nn.Module
    train_loss: Callable[[nn.Module, nn.Module, Batch], Tensor]
    valid_loss: Callable[..., Tensor]
    valid_reads: tuple[str, ...]
    train: list[Batch]
    valid: list[Batch]
    rate: float = RATE
    upper_rate: float = 1e-4

    def validate(self, batch: Batch) -> Tensor:
        """Return the upper loss of a batch with the two modules of these parts."""
        modules = {MODEL: self.model, UPPER: self.upper}
        read = {name: modules[name] for name in self.valid_reads}
        loss: Tensor = self.valid_loss(**read, batch=batch)
        return loss


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of which size and type a program is built.

    Attributes:
        size: A key of `WIDTHS`.
        batch_size: Examples in a batch.
        dtype: Of parameters and inputs.
        device: Where everything lies, batches too.
        seed: Decides data and initial parameters.
    """

    size: str
    batch_size: int = 64
    dtype: torch.dtype = torch.float32
    device: torch.device
    seed: int = 0


Build = Callable[[Shape], Parts]


class LossWeights(nn.Module):
    """``loss -> weight in (0, 1)`` by a network with one hidden layer, as in Meta-Weight-Net.

    References:
        Shu et al., 2019, arXiv 1902.07379.

    >>> LossWeights()(torch.tensor([0.5, 2.0])).shape
    torch.Size([2])
    """

    def __init__(self, hidden: int = 100) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, losses: Tensor) -> Tensor:
        """Weigh `(batch,)` losses."""
        weights: Tensor = self.network(losses.unsqueeze(-1)).squeeze(-1).sigmoid()
        return weights


class InputScale(nn.Module):
    """One learned factor for each input, 1 at the start.

    >>> InputScale(2)(torch.tensor([[3.0, 4.0]])).tolist()
    [[3.0, 4.0]]
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Scale `(batch, inputs)` inputs."""
        scaled: Tensor = self.factor * inputs
        return scaled


def reweighting(shape: Shape) -> Parts:
    """Learned weights of the training losses; the upper loss reads the model only.

    >>> parts = reweighting(Shape(size="1k", device=torch.device("cpu")))
    >>> sum(p.numel() for p in parts.model.parameters())
    1090
    """
    with seeded(shape.seed):
        model, train, valid = _learner(shape)
        upper = LossWeights().to(shape.device, shape.dtype)

    def train_loss(model: nn.Module, upper: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        losses = cross_entropy(model(inputs), targets, reduction="none")
        mean: Tensor = (upper(losses.detach()) * losses).mean()
        return mean

    def valid_loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return cross_entropy(model(inputs), targets)

    return Parts(
        model=model,
        upper=upper,
        train_loss=train_loss,
        valid_loss=valid_loss,
        valid_reads=(MODEL,),
        train=train,
        valid=valid,
    )


def input_scaling(shape: Shape) -> Parts:
    """Learned scales of the inputs; the upper loss reads both, so there is a direct term.

    >>> parts = input_scaling(Shape(size="1k", device=torch.device("cpu")))
    >>> parts.upper.factor.shape
    torch.Size([16])
    """
    with seeded(shape.seed):
        model, train, valid = _learner(shape)
        upper = InputScale(WIDTHS[shape.size][0]).to(shape.device, shape.dtype)

    def scaled_loss(model: nn.Module, upper: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return cross_entropy(model(upper(inputs)), targets)

    return Parts(
        model=model,
        upper=upper,
        train_loss=scaled_loss,
        valid_loss=scaled_loss,
        valid_reads=(MODEL, UPPER),
        train=train,
        valid=valid,
    )


PROGRAMS: dict[str, Build] = {"reweighting": reweighting, "input scaling": input_scaling}
"""The programs of the suite by the name that tables give them."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw on the CPU from this seed, and leave the generator as it was.

    >>> with seeded(0):
    ...     first = torch.rand(())
    >>> with seeded(0):
    ...     bool(torch.rand(()) == first)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def network(widths: tuple[int, ...]) -> nn.Module:
    """Return a tanh network with these input and hidden widths and `CLASSES` outputs.

    >>> sum(p.numel() for p in network(WIDTHS["94k"]).parameters())
    94104
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


def _learner(shape: Shape) -> tuple[nn.Module, list[Batch], list[Batch]]:
    """Return a network, and batches that a noisy linear teacher labelled."""
    widths = WIDTHS[shape.size]
    model = network(widths)
    # float64 first, so that both precisions see one data set.
    inputs = INPUT_SCALE * torch.randn(16, shape.batch_size, widths[0], dtype=torch.float64)
    teacher = torch.randn(widths[0], CLASSES, dtype=torch.float64)
    noise = torch.randn(16, shape.batch_size, CLASSES, dtype=torch.float64)
    scores = inputs @ teacher / (INPUT_SCALE * widths[0] ** 0.5)
    targets = (scores + 0.5 * noise).argmax(-1)
    batches = [
        (x.to(shape.device, shape.dtype), y.to(shape.device))
        for x, y in zip(inputs, targets, strict=True)
    ]
    return model.to(shape.device, shape.dtype), batches[:8], batches[8:]
