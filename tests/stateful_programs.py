"""Programs with every kind of state, and whether two engines stand at the same place."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, TensorDataset

import mlo
from mlo import Autocast, Clipping, Engine, Graph, Problem, Response
from mlo.checkpoint.file import read, write
from mlo.checkpoint.plain import encode
from tests.optimizers import DIFFERENTIABLE

Make = Callable[[int], Engine]
"""Makes an engine whose modules start from a seed; everything else is the same for each."""


def rows(count: int = 10, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Return inputs and targets of a regression."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), inputs.sum(1, keepdim=True).sin().to(dtype)


def shuffled(data: Dataset[Any] | None = None, **options: Any) -> DataLoader[Any]:
    """Return a loader that draws its order from the global generator: an epoch has 3 batches."""
    return DataLoader(data or TensorDataset(*rows()), batch_size=4, shuffle=True, **options)


def network(*layers: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return a small network that starts where the global generator stands."""
    return nn.Sequential(nn.Linear(3, 4), *layers, nn.Tanh(), nn.Linear(4, 1)).to(dtype)


def model_loss(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
    """Return the weighted error of the examples."""
    inputs, targets = batch
    return (weights(inputs).sigmoid() * (model(inputs) - targets).square()).mean()


def weights_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the error."""
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def reweighting(
    *,
    layers: Callable[[], Iterable[nn.Module]] = tuple,
    loader: Callable[[], Any] | None = None,
    response: Response | None = None,
    dtype: torch.dtype = torch.float64,
    upper: dict[str, Any] | None = None,
    engine: Callable[[], dict[str, Any]] = dict,
    freeze: bool = False,
    **lower: Any,
) -> Make:
    """Return a program that learns weights of examples, with options of both problems.

    Args:
        layers: Makes layers in the middle of the model.
        loader: Makes the loader of the lower problem; by default one that shuffles.
        response: Its response.
        dtype: Of parameters and data.
        upper: Fields of the upper problem.
        engine: Makes options of the engine.
        freeze: Whether the model's first layer is not trained.
        **lower: Fields of the lower problem.
    """

    def make(seed: int) -> Engine:
        torch.manual_seed(seed)
        model, weights = network(*layers(), dtype=dtype), network(dtype=dtype)
        if freeze:
            model[0].requires_grad_(False)
        problems = [
            Problem(
                name="model",
                module=model,
                loss=model_loss,
                batches=loader() if loader else shuffled(TensorDataset(*rows(dtype=dtype))),
                optimizer=sgd(),
                response=response or mlo.identity(rate=0.1),
                steps=2,
            ),
            Problem(
                name="weights",
                module=weights,
                loss=weights_loss,
                batches=[rows(5, seed=s, dtype=dtype) for s in (1, 2)],
                optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
            ),
        ]
        graph = Graph(replace(problems[0], **lower), replace(problems[1], **(upper or {})))
        return Engine(graph, device="cpu", **engine())

    return make


def sgd(lr: float = 0.1, **options: Any) -> Any:
    """Return a maker of SGD."""
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **options)


class Augmented(Dataset[Any]):
    """Rows to which each look adds noise, drawn from all three global generators."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = rows()
        noise = torch.rand(()).double() + random.random() + np.random.rand()
        return inputs[index] + 0.1 * noise, targets[index]


class Counting:
    """A schedule of a user's own, which a loss reads."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        """Return the count."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Set the count."""
        self.count = state["count"]


def with_object_of_the_users_own(seed: int) -> Engine:
    """Return a program whose loss depends on a counter and on a generator."""
    counter, generator = Counting(), torch.Generator().manual_seed(seed)

    class Generators:
        def state_dict(self) -> Any:
            return {"state": generator.get_state()}

        def load_state_dict(self, state: Any) -> None:
            generator.set_state(state["state"])

    def loss(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        counter.count += 1
        noise = torch.rand((), generator=generator, dtype=torch.float64)
        return model_loss(model, weights, batch) * (1 + noise / (1 + counter.count))

    also = {"counter": counter, "generator": Generators()}
    return reweighting(loss=loss, engine=lambda: {"also": also})(seed)


def drawing(seed: int) -> Engine:
    """Return a program whose losses draw from every generator, normal deviates too."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        noise = random.gauss(0, 1) + np.random.standard_normal() + torch.randn(()).item()
        return weights_loss(model, batch) * (1 + 0.1 * noise)

    return reweighting(upper={"loss": loss})(seed)


def sparse(seed: int) -> Engine:
    """Return a program with one weight an example, in a sparse table."""
    torch.manual_seed(seed)
    table = nn.Embedding(10, 1, sparse=True).double()
    inputs, targets = rows()

    def loss(model: nn.Module, table: nn.Module, batch: Tensor) -> Tensor:
        errors = (model(inputs[batch]) - targets[batch]).square()
        return mlo.weighted(errors, table(batch).sigmoid())

    return Engine(
        Graph(
            Problem(
                name="model",
                module=network(nn.Dropout(0.2)),
                loss=loss,
                batches=shuffled(list(range(10))),
                optimizer=sgd(momentum=0.9),
                response=mlo.finite_difference(),
            ),
            Problem(
                name="table",
                module=table,
                loss=weights_loss,
                batches=[rows()],
                optimizer=lambda p: torch.optim.SparseAdam(p, lr=0.01),
            ),
        ),
        device="cpu",
    )


def three_levels(seed: int) -> Engine:
    """Return a chain with dropout and batch normalisation, each level with a loader."""
    torch.manual_seed(seed)

    def loss_t(t: nn.Module, c: nn.Module, batch: Any) -> Tensor:
        return (t(batch[0]) - c(batch[0]).sigmoid()).square().mean()

    def loss_s(s: nn.Module, t: nn.Module, batch: Any) -> Tensor:
        return (s(batch[0]) - t(batch[0])).square().mean()

    def loss_c(s: nn.Module, t: nn.Module, batch: Any) -> Tensor:
        return (s(batch[0]) + t(batch[0]) - 1).square().mean()

    def problem(name: str, loss: Any, *layers: nn.Module, **options: Any) -> Problem:
        return Problem(
            name=name,
            module=network(*layers),
            loss=loss,
            batches=shuffled(),
            optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
            **options,
        )

    return Engine(
        Graph(
            problem("t", loss_t, nn.Dropout(0.3), steps=2, response=mlo.warm_started()),
            problem("s", loss_s, nn.BatchNorm1d(4), steps=2, response=mlo.cg(steps=2, damping=1.0)),
            problem("c", loss_c, warmup=1),
        ),
        device="cpu",
    )


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "milestones": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.5),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 9),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=40),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.7),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 30),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}
RESPONSES = {
    "warm started": mlo.warm_started(),
    "warm started twice": mlo.warm_started(mlo.inverse.cg(steps=1, damping=1.0), steps=2),
    "unrolled": mlo.unrolled(),
    "unrolled, truncated": mlo.unrolled(steps=1),
    "nystrom": mlo.nystrom(rank=2, damping=1.0),
    "adaptive": mlo.adaptive(),
    "finite difference": mlo.finite_difference(),
    "value function": mlo.value_function(steps=2, rate=0.1),
}
OPTIMIZERS = {
    **DIFFERENTIABLE,
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
}


def _half(optimizer: Any) -> dict[str, Any]:
    return {"optimizer": optimizer, "dtype": torch.bfloat16}


PROGRAMS: dict[str, Make] = {
    "plain": reweighting(),
    **{f"optimizer {n}": reweighting(optimizer=make) for n, make in OPTIMIZERS.items()},
    # What these keep in float32 beside parameters in half precision.
    **{
        f"optimizer {n}, bfloat16": reweighting(
            **_half(OPTIMIZERS[n]),
            response=mlo.constant(),
            upper={
                "optimizer": OPTIMIZERS[n],
                "loss": lambda weights, batch: weights(batch[0]).sum(),
            },
        )
        for n in ("adam", "nadam", "asgd", "adafactor")
    },
    **{f"scheduler {n}": reweighting(scheduler=make) for n, make in SCHEDULERS.items()},
    "scheduler of the upper problem": reweighting(upper={"scheduler": SCHEDULERS["cosine"]}),
    "scheduler, a rate that is a tensor": reweighting(
        optimizer=lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
        scheduler=SCHEDULERS["step"],
    ),
    **{f"response {n}": reweighting(response=r) for n, r in RESPONSES.items()},
    **{
        f"response {n}, on micro-batches behind dropout": reweighting(
            response=RESPONSES[n], accumulate=2, layers=lambda: [nn.Dropout(0.3)]
        )
        for n in ("warm started", "unrolled", "finite difference")
    },
    "dropout": reweighting(layers=lambda: [nn.Dropout(0.5)]),
    "batch normalisation": reweighting(layers=lambda: [nn.BatchNorm1d(4)]),
    "spectral norm": reweighting(
        layers=lambda: [nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))]
    ),
    "frozen": reweighting(freeze=True),
    "micro-batches": reweighting(accumulate=2, upper={"accumulate": 3}),
    "warm-up": reweighting(upper={"warmup": 3}),
    "clipping": reweighting(upper={"clipping": Clipping(direct=1e-3, indirect=1e-3)}),
    "bfloat16": reweighting(dtype=torch.float32, engine=lambda: {"autocast": Autocast()}),
    "float16": reweighting(
        dtype=torch.float32,
        engine=lambda: {
            "autocast": Autocast(dtype=torch.float16, initial_scale=2.0**20, growth_every=3)
        },
    ),
    "object of the user's own": with_object_of_the_users_own,
    "drawing": drawing,
    "sparse": sparse,
    "three levels": three_levels,
    "own generator": reweighting(loader=lambda: shuffled(generator=torch.Generator())),
    "augmented": reweighting(loader=lambda: shuffled(Augmented())),
    "in order": reweighting(loader=lambda: [rows(4, seed) for seed in range(5)]),
}


def run(engine: Engine, rounds: int) -> list[dict[str, Tensor]]:
    """Run the engine and return the losses of each round."""
    return [done.losses for done in engine.rounds(rounds)]


def saved(engine: Engine, path: Path) -> Any:
    """Return the engine's state as a file gives it back."""
    write(path, engine.state_dict(), round=engine.round)
    return read(path).state


def same_place(left: Engine, right: Engine) -> bool:
    """Return whether both stand at the same place, bit for bit."""
    return same_tree(left.state_dict(), right.state_dict())


def same_tree(left: Any, right: Any) -> bool:
    """Return whether two trees of plain data are the same, bit for bit."""
    (structure, tensors), (other, others) = encode(left), encode(right)
    return (
        structure == other
        and tensors.keys() == others.keys()
        and all(same_bits(tensors[n], others[n]) for n in tensors)
    )


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors are equal, NaN to NaN."""
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(torch.isnan(left), torch.isnan(right))
        and torch.equal(torch.nan_to_num(left), torch.nan_to_num(right))
    )


def same_losses(left: list[dict[str, Tensor]], right: list[dict[str, Tensor]]) -> bool:
    """Return whether two runs have found the same losses, bit for bit."""
    return len(left) == len(right) and all(
        one.keys() == other.keys() and all(same_bits(one[n], other[n]) for n in one)
        for one, other in zip(left, right, strict=True)
    )
