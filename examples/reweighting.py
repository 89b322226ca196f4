"""Meta-Weight-Net (Shu et al., 2019, arXiv 1902.07379): the loss of an example gives its weight.

model:      w*(v) = argmin_w  loss on noisy labels, weighted by v
weighting:  min_v  loss of w*(v) on 50 correct labels
"""

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import mlo
from mlo.config import Config
from mlo.program import Program
from mlo.record import Record


class Settings(Config):
    seed: int
    num_train: int = Field(ge=1, le=1147)
    noise: float = Field(ge=0, le=1)
    rounds: PositiveInt
    rate: NonNegativeFloat


def digits(settings: Settings) -> list[list[Tensor]]:
    torch.manual_seed(settings.seed)
    scans, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    is_wrong = torch.rand(labels.shape) < settings.noise
    noisy = (labels + is_wrong * torch.randint(1, 10, labels.shape)) % 10
    rows = torch.randperm(len(labels)).tensor_split([600, 650, 650 + settings.num_train])
    return [[scans[r].float() / 16, labels[r], noisy[r]] for r in rows]


def clean_loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    inputs, labels, _ = batch
    return cross_entropy(model(inputs), labels)


def noisy_loss(model: nn.Module, weighting: nn.Module, batch: list[Tensor]) -> mlo.Weighted:
    inputs, _, noisy = batch
    losses = cross_entropy(model(inputs), noisy, reduction="none")
    weights: Tensor = weighting(losses.detach()[:, None])[:, 0]
    return mlo.weighted(losses, weights, normalized=True)


def declare(settings: Settings) -> mlo.Graph:
    _, clean, train, _ = digits(settings)
    weighting = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
    for parameter in weighting[2].parameters():
        nn.init.zeros_(parameter)  # All weights are equal at first.
    return mlo.Graph(
        mlo.Problem(
            name="model",
            module=nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
            loss=noisy_loss,
            batches=DataLoader(TensorDataset(*train), batch_size=100, shuffle=True),
            steps=5,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.3),
            response=mlo.cg(steps=5, damping=1.0),
        ),
        mlo.Problem(
            name="weighting",
            module=weighting,
            loss=clean_loss,
            batches=[clean],
            optimizer=lambda p: torch.optim.Adam(p, lr=settings.rate),
        ),
    )


def run(settings: Settings, record: Record) -> None:
    result = {}
    for name, change in {
        "noisy labels": {"rate": 0},
        "noisy labels, a fifth of the updates": {"rate": 0, "rounds": max(1, settings.rounds // 5)},
        "50 correct labels": {"rate": 0, "noise": 0, "num_train": 50},
        "correct labels": {"rate": 0, "noise": 0},
        "noisy labels, reweighted": {},
    }.items():
        varied = settings.model_copy(update=change)
        (test_inputs, test_labels, _), _, (inputs, labels, noisy), _ = digits(varied)
        graph = declare(varied)
        for round in mlo.Engine(graph, device="cpu").rounds(varied.rounds):
            record.metrics(training=name, round=round.number, **round.losses)
        model, weighting = (problem.module for problem in graph.problems.values())
        weights = weighting(cross_entropy(model(inputs), noisy, reduction="none")[:, None])
        error = (model(test_inputs).argmax(1) != test_labels).float().mean()
        right, wrong = weights[noisy == labels].mean(), weights[noisy != labels].mean()
        result[name] = {"test_error": error, "weight_correct": right, "weight_wrong": wrong}
        record.print(f"{error:6.1%}  {name}")
    record.print(f"mean weight {right:.2f} if the label is correct, {wrong:.2f} if it is wrong")
    record.result(result)


program = Program(summary="Weights for noisy labels", config=Settings, graph=declare, run=run)
