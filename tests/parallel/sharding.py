"""A small network that `fully_shard` can shard, and what tests of it share."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


class Network(nn.Module):
    """Layers of 5, 7 and 3 outputs, whose rows do not divide evenly, and a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 7), nn.Linear(7, 3)])
        self.scale = nn.Parameter(torch.tensor([1.5]))
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.scale * x


def network(*, sharded: bool, **options: object) -> Network:
    """Return the network with the same values at each call, sharded layer by layer or not."""
    generator = torch.Generator().manual_seed(3)
    made = Network().double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).double() / 2)
    if sharded:
        for layer in made.layers:
            fully_shard(layer, **options)
        fully_shard(made, **options)
    return made


def rows(count: int, seed: int = 0) -> Tensor:
    """Return random inputs of the network."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator, dtype=torch.float64)


def whole(tensor: Tensor | None) -> Tensor | None:
    """Return a copy of the whole tensor."""
    if tensor is None:
        return None
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def parts(module: nn.Module) -> list[Tensor]:
    """Return copies of what this rank holds."""
    return [p.to_local().detach().clone() for p in module.parameters()]


def is_let_go(module: nn.Module) -> bool:
    """Return whether nothing is gathered."""
    return all(isinstance(p, DTensor) for p in module.parameters())


def distance(found: list[Tensor | None], expected: list[Tensor | None]) -> float:
    """Return the largest difference; both lists must be None in the same places."""
    assert [t is None for t in found] == [t is None for t in expected]
    return max(
        float((whole(one) - whole(other)).abs().max())
        for one, other in zip(found, expected, strict=True)
        if one is not None and other is not None
    )
