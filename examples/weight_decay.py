"""A weight decay of its own for every weight, found by gradient descent on a validation loss.

    model:  w*(a) = argmin_w  loss(w; training set) + 1/2 sum_i exp(a_i) w_i^2
    decay:  min_a  loss(w*(a); validation set)

Pixels of pure noise follow the scan of each digit. A grid finds one decay; 5,120 take a gradient.
"""

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlo
from mlo.config import Config
from mlo.program import Program
from mlo.record import Record


class Settings(Config):
    seed: int
    num_train: int = Field(ge=100, le=800)
    num_noise: PositiveInt
    rounds: PositiveInt
    grid: tuple[PositiveFloat, ...] = Field(min_length=1)


def digits(settings: Settings) -> list[list[Tensor]]:
    torch.manual_seed(settings.seed)
    scans, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    noise = 0.3 * torch.randn(len(scans), settings.num_noise)
    inputs = torch.cat([(scans.float() - scans.float().mean(0)) / 16, noise], dim=1)
    rows = torch.randperm(len(scans)).tensor_split([settings.num_train, 2 * settings.num_train])
    return [[inputs[r], labels[r]] for r in rows]


def train_loss(model: nn.Linear, decay: nn.ParameterDict, batch: list[Tensor]) -> Tensor:
    penalty: Tensor = (decay["log"].exp() * model.weight**2).sum() / 2
    return valid_loss(model, batch) + penalty


def valid_loss(model: nn.Linear, batch: list[Tensor]) -> Tensor:
    inputs, labels = batch
    return cross_entropy(model(inputs), labels)


def declare(settings: Settings) -> mlo.Graph:
    train, valid, _ = digits(settings)
    net = nn.Linear(train[0].shape[1], 10)
    return mlo.Graph(
        mlo.Problem(
            name="model",
            module=net,
            loss=train_loss,
            batches=[train],
            steps=10,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
            response=mlo.cg(steps=10, damping=1e-3),
        ),
        mlo.Problem(
            name="decay",
            module=nn.ParameterDict({"log": torch.full_like(net.weight, -7.0)}),
            loss=valid_loss,
            batches=[valid],
            optimizer=lambda p: torch.optim.Adam(p, lr=0.1),
        ),
    )


def run(settings: Settings, record: Record) -> None:
    train, valid, test = digits(settings)
    engine = mlo.Engine(declare(settings), device="cpu")
    for round in engine.rounds(settings.rounds):
        record.metrics(round=round.number, **round.losses)
    model, decay = engine.graph.problem("model").module, engine.graph.problem("decay").parameters()
    scan, noise = decay["log"].detach().exp().tensor_split([64], dim=1)

    def one_decay(strength: float, *sets: list[Tensor]) -> LogisticRegression:
        inputs, labels = map(torch.cat, zip(*sets, strict=True))
        # Scikit-learn sums the loss and leaves the penalty's factor at 1.
        return LogisticRegression(C=1 / (strength * len(labels))).fit(inputs, labels)

    best = max(settings.grid, key=lambda s: one_decay(s, train).score(*valid))
    errors = {
        "next to no decay": 1 - one_decay(1e-9, train).score(*test),
        "one decay, chosen on the validation set": 1 - one_decay(best, train).score(*test),
        "one decay, trained on both sets": 1 - one_decay(best, train, valid).score(*test),
        "a decay for every weight": (model(test[0]).argmax(1) != test[1]).float().mean().item(),
    }
    for name, error in errors.items():
        record.print(f"{error:6.1%}  {name}")
    record.result(
        {"test_error": errors, "mean_decay": {"scan": scan.mean(), "noise": noise.mean()}}
    )


program = Program(summary="A decay for every weight", config=Settings, graph=declare, run=run)
