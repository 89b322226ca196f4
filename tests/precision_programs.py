"""Small float32 programs that note in which precision they run."""

from dataclasses import replace

import torch
from torch import nn

from mlo import Graph, Problem


def adam(lr=0.01, eps=1e-8):
    return lambda parameters: torch.optim.Adam(parameters, lr=lr, eps=eps)


class Watched(nn.Module):
    """A network that notes in which precision it runs."""

    def __init__(self, *layers):
        super().__init__()
        self.first, self.rest = nn.Linear(3, 4), nn.Sequential(*layers, nn.Tanh(), nn.Linear(4, 1))
        self.seen = []

    def forward(self, inputs):
        hidden = self.first(inputs)
        self.seen.append(hidden.dtype)
        return self.rest(hidden)


def rows(seed, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(8, 3, generator=generator)
    return inputs * size, inputs.sum(1, keepdim=True).sin() * size


def reweighted(response, model=None, batches=None, **options):
    """Return a program that learns weights of examples, in float32."""

    def train_loss(model, weights, batch):
        errors = (model(batch[0]) - batch[1]).square()
        return (weights(batch[0]).sigmoid() * errors).mean()

    def valid_loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, weights = model or Watched(), Watched()
    drawn = batches or {"model": [rows(0)], "weights": [rows(1)]}
    problems = [
        Problem(name="model", module=model, loss=train_loss, response=response, **options),
        Problem(name="weights", module=weights, loss=valid_loss),
    ]
    return Graph(
        *(replace(p, batches=drawn[p.name], optimizer=p.optimizer or adam()) for p in problems)
    )


def plain(batches, *layers, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Watched(*layers)
    return Problem(
        name="model",
        module=model,
        loss=lambda model, batch: (model(batch[0]) - batch[1]).square().mean(),
        batches=batches,
        **{"optimizer": adam(), **options},
    )
