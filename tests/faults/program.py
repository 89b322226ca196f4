"""A small bilevel program with everything that a resumed run must restore."""

import time

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import mlo
from mlo.config import Config
from mlo.program import Program
from mlo.record import Record


class Settings(Config):
    rounds: PositiveInt = 40
    every: PositiveInt = 3
    pause: float = 0.0
    workers: int = 0


def train_loss(model: nn.Module, weights: nn.Module, batch: list[Tensor]) -> mlo.Weighted:
    inputs, targets, index = batch
    losses = cross_entropy(model(inputs), targets, reduction="none")
    return mlo.weighted(losses, weights(index).squeeze(1).sigmoid())


def valid_loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    inputs, targets = batch
    return cross_entropy(model(inputs), targets)


def declare(settings: Settings) -> mlo.Graph:
    torch.manual_seed(0)
    inputs, targets = torch.randn(50, 6), torch.randint(0, 3, (50,))
    train = TensorDataset(inputs[:30], targets[:30], torch.arange(30))
    valid = TensorDataset(inputs[30:], targets[30:])
    return mlo.Graph(
        mlo.Problem(
            name="model",
            module=nn.Sequential(
                nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 3)
            ),
            loss=train_loss,
            batches=DataLoader(train, batch_size=7, shuffle=True, num_workers=settings.workers),
            steps=2,
            optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
            scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 10, 0.9),
        ),
        mlo.Problem(
            name="weights",
            module=nn.Embedding(30, 1, sparse=True),
            loss=valid_loss,
            batches=DataLoader(
                valid, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1)
            ),
            optimizer=lambda p: torch.optim.SparseAdam(p, lr=0.1),
        ),
    )


def run(settings: Settings, record: Record) -> None:
    graph = declare(settings)
    engine = mlo.Engine(graph, device="cpu", ranks=record.ranks)
    engine.run(
        until=settings.rounds,
        record=record,
        record_every=1,
        checkpoints=record.checkpoints(every=settings.every, keep=2),
        resume=record.resuming,
        callbacks=mlo.Callbacks(after_round=lambda _: time.sleep(settings.pause)),
        show_progress=False,
    )
    parameters = {
        f"{name}.{key}": parameter
        for name, problem in graph.problems.items()
        for key, parameter in problem.module.state_dict().items()
    }
    record.result({"headline": f"{settings.rounds} rounds", "parameters": parameters})


program = Program(summary="Weights of examples", config=Settings, graph=declare, run=run)
