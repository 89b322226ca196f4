"""Programs written for Betty as its users write them, and the same ones in `mlo`."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mlo
from tests.programs import network

problems = pytest.importorskip(
    "betty.problems",
    reason="needs pip install --no-deps --ignore-requires-python betty-ml==0.2.1",
)
configs = pytest.importorskip("betty.configs")
engines = pytest.importorskip("betty.engine")

Batch = tuple[Tensor, Tensor]
Edges = dict[str, dict[Any, list[Any]]]


class Reweight(problems.ImplicitProblem):
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        inputs, targets = batch
        return {"loss": (self.classifier(inputs) - targets).square().mean()}


class Classifier(problems.ImplicitProblem):
    def training_step(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        losses = (self(inputs) - targets).square()
        weights = self.reweight(losses.detach())
        return (weights * losses).mean() + 0.01 * sum(p.square().sum() for p in self.parameters())


class Teacher(Classifier):
    pass


class Student(problems.ImplicitProblem):
    def training_step(self, batch: Batch) -> Tensor:
        inputs, _ = batch
        error = (self.module(inputs) - self.teacher(inputs)).square().mean()
        return error + 0.05 * sum(p.square().sum() for p in self.module.parameters())


class Judge(problems.ImplicitProblem):
    def training_step(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        direct = 0.1 * sum(p.square().sum() for p in self.module.parameters())
        both = self.student(inputs) + 0.5 * self.teacher(inputs)
        return (both - targets).square().mean() + direct


def weighting(seed: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid()).double()


def batches(seed: int, count: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        found.append((inputs, inputs.sum(1, keepdim=True).sin()))
    return found


def declared(
    kind: Callable[..., Any], name: str, module: nn.Module, lr: float, seed: int, **config: Any
) -> Any:
    return kind(
        name=name,
        config=configs.Config(retain_graph=True, **config),
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=lr),
        train_data_loader=batches(seed),
    )


def reweighting(lr: float = 0.05, upper_lr: float = 0.1, **config: Any) -> tuple[list[Any], Edges]:
    """Return the two problems of data reweighting and their edges."""
    lower = declared(Classifier, "classifier", network(), lr, seed=1, **config)
    upper = declared(Reweight, "reweight", weighting(), upper_lr, seed=2)
    return [upper, lower], {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}


def chain(lr: float = 0.05, upper_lr: float = 0.1, **config: Any) -> tuple[list[Any], Edges]:
    """Return teacher, student and the weights of the teacher's examples, read along both paths."""
    teacher = declared(Teacher, "teacher", network(seed=1), lr, seed=1, **config)
    student = declared(Student, "student", network(seed=2), lr, seed=2, **config)
    weights = declared(Judge, "reweight", weighting(), upper_lr, seed=3)
    edges = {"u2l": {weights: [teacher]}, "l2u": {teacher: [student, weights], student: [weights]}}
    return [weights, teacher, student], edges


def run(program: Sequence[Any], edges: Edges, iterations: int) -> None:
    config = configs.EngineConfig(train_iters=iterations, strategy="cpu")
    engines.Engine(problems=list(program), config=config, dependencies=edges).run()


def classifier_loss(classifier: nn.Module, reweight: nn.Module, batch: Batch) -> Tensor:
    inputs, targets = batch
    losses = (classifier(inputs) - targets).square()
    decay = 0.01 * sum(p.square().sum() for p in classifier.parameters())
    return (reweight(losses.detach()) * losses).mean() + decay


def checked_loss(classifier: nn.Module, batch: Batch) -> Tensor:
    inputs, targets = batch
    return (classifier(inputs) - targets).square().mean()


def teacher_loss(teacher: nn.Module, reweight: nn.Module, batch: Batch) -> Tensor:
    return classifier_loss(teacher, reweight, batch)


def student_loss(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    inputs, _ = batch
    decay = 0.05 * sum(p.square().sum() for p in student.parameters())
    return (student(inputs) - teacher(inputs)).square().mean() + decay


def judging_loss(
    student: nn.Module, teacher: nn.Module, reweight: nn.Module, batch: Batch
) -> Tensor:
    inputs, targets = batch
    direct = 0.1 * sum(p.square().sum() for p in reweight.parameters())
    return (student(inputs) + 0.5 * teacher(inputs) - targets).square().mean() + direct


def sgd(lr: float, **options: Any) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **options)


def reweighting_graph(
    response: mlo.Response | None = None, *, steps: int = 1, upper_lr: float = 0.1, **lower: Any
) -> mlo.Graph:
    """Return the same program as `reweighting`; `lower` replaces fields of its lower problem."""
    fields: dict[str, Any] = {"optimizer": sgd(0.05), "batches": batches(1), "module": network()}
    return mlo.Graph(
        mlo.Problem(
            name="classifier",
            loss=classifier_loss,
            response=response,
            steps=steps,
            **{**fields, **lower},
        ),
        mlo.Problem(
            name="reweight",
            module=weighting(),
            loss=checked_loss,
            batches=batches(2),
            optimizer=sgd(upper_lr),
        ),
    )


def chain_graph(
    response: mlo.Response | None = None,
    *,
    steps: tuple[int, int] = (1, 1),
    lr: float = 0.05,
    upper_lr: float = 0.1,
    judge: Callable[..., Tensor] = judging_loss,
) -> mlo.Graph:
    """Return the same program as `chain`; `judge` is the loss of its highest problem."""
    return mlo.Graph(
        mlo.Problem(
            name="teacher",
            module=network(seed=1),
            loss=teacher_loss,
            batches=batches(1),
            steps=steps[0],
            optimizer=sgd(lr),
            response=response,
        ),
        mlo.Problem(
            name="student",
            module=network(seed=2),
            loss=student_loss,
            batches=batches(2),
            steps=steps[1],
            optimizer=sgd(lr),
            response=response,
        ),
        mlo.Problem(
            name="reweight",
            module=weighting(),
            loss=judge,
            batches=batches(3),
            optimizer=sgd(upper_lr),
        ),
    )


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def judging_the_student(student: nn.Module, reweight: nn.Module, batch: Batch) -> Tensor:
    return checked_loss(student, batch) + 0.1 * sum(p.square().sum() for p in reweight.parameters())


def moved(module: nn.Module, update: Callable[[], object]) -> Tensor:
    """Return by how much `update` has lowered the parameters: at rate 1, the gradient."""
    before = flat(module)
    update()
    return before - flat(module)


def error(found: Tensor, expected: Tensor) -> float:
    assert float(expected.norm()) > 1e-6
    return float((found - expected).norm() / expected.norm())
