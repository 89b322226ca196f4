"""Learning by Teaching (Sheth, Jiang and Xie, 2021, arXiv 2103.07009) on digits: three levels.

teacher:       T*(A) = argmin_T  loss on 100 labelled scans; A mixes its activation functions
student:       S*(T*, A) = argmin_S  loss on what the teacher says of 500 unlabelled scans
architecture:  min_A  loss of S* on 200 validation scans, a function of A through S* alone
"""

import torch
from pydantic import PositiveInt
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlo
from mlo.config import Config
from mlo.program import Program
from mlo.record import Record


class Settings(Config):
    seed: int
    rounds: PositiveInt


def digits(settings: Settings) -> list[list[Tensor]]:
    torch.manual_seed(settings.seed)
    scans, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    scans = (scans.float() - scans.float().mean(0)) / 16
    return [[scans[r], labels[r]] for r in torch.randperm(1797).tensor_split([100, 600, 800])]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, inputs: Tensor, architecture: nn.ParameterDict) -> Tensor:
        hidden = self.hidden(inputs)
        units = torch.stack([hidden.relu(), hidden.tanh(), torch.sin(50 * hidden)], dim=-1)
        outputs: Tensor = self.head(units @ architecture["scores"].softmax(0))
        return outputs


def teacher_loss(teacher: Net, architecture: nn.Module, batch: list[Tensor]) -> Tensor:
    return cross_entropy(teacher(batch[0], architecture), batch[1])


def student_loss(
    student: nn.Module, teacher: Net, architecture: nn.Module, batch: Tensor
) -> Tensor:
    return cross_entropy(student(batch), teacher(batch, architecture).softmax(1))


def declare(settings: Settings, fixed: Tensor | None = None) -> mlo.Graph:
    labelled, (unlabelled, _), valid, _ = digits(settings)
    return mlo.Graph(
        mlo.Problem(
            name="teacher",
            module=Net(),
            loss=teacher_loss,
            batches=[labelled],
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        ),
        mlo.Problem(
            name="student",
            module=nn.Linear(64, 10),
            loss=student_loss,
            batches=[unlabelled],
            steps=5,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        ),
        mlo.Problem(
            name="architecture",
            module=nn.ParameterDict({"scores": torch.zeros(3) if fixed is None else fixed}),
            loss=lambda student, batch: cross_entropy(student(batch[0]), batch[1]),
            batches=[valid],
            optimizer=lambda p: torch.optim.Adam(p, lr=0.1 if fixed is None else 0.0),
        ),
    )


def run(settings: Settings, record: Record) -> None:
    *_, (inputs, labels) = digits(settings)
    units = "relu", "tanh", "sine"
    single = dict(zip(units, 9 * torch.eye(3), strict=True))
    result = {}
    for name, scores in {"found": None, "even": torch.zeros(3), **single}.items():
        graph = declare(settings, fixed=scores)
        for round in mlo.Engine(graph, device="cpu").rounds(settings.rounds):
            record.metrics(mix=name, round=round.number, **round.losses)
        _, student, architecture = (problem.module for problem in graph.problems.values())
        error = (student(inputs).argmax(1) != labels).float().mean()
        shares = dict(zip(units, next(architecture.parameters()).softmax(0).tolist(), strict=True))
        result[name] = {"test_error": error, "shares": shares}
        record.print(f"{error:6.1%}  {name:6}", *(f"{s:.2f} {unit}" for unit, s in shares.items()))
    record.result(result)


program = Program(summary="Teacher, student, architecture", config=Settings, graph=declare, run=run)
