"""The same program on other libraries, where they are installed.

They are imported when a variant is built, never before: `mlo` does not depend on them.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from mlo.bench.programs import MODEL, UPPER, Batch, Parts
from mlo.bench.variant import Steps

BETTY, TORCHOPT = "betty-ml", "torchopt"
"""Distributions."""
MODULES = {BETTY: "betty", TORCHOPT: "torchopt"}


def installed(distribution: str) -> str | None:
    """Return the version of an installed peer, or None if it cannot be imported.

    >>> installed("no-such-peer") is None
    True
    """
    try:
        found = version(distribution)
        with quiet():
            import_module(MODULES[distribution])
    except (PackageNotFoundError, ImportError, KeyError):
        return None
    return found


def betty(parts: Parts, options: Mapping[str, Any], device: torch.device) -> Steps:
    """Return the steps of the program on Betty's engine.

    Args:
        parts: The program.
        options: Of the ``Config`` of the lower problem.
        device: Where it runs.
    """

    def train_step(problem: Any, batch: Batch) -> Tensor:
        return parts.train_loss(problem.module, problem.upper.module, batch)

    def valid_step(problem: Any, batch: Batch) -> Tensor:
        del problem
        return parts.validate(batch)

    problems = {
        MODEL: betty_problem(
            MODEL, train_step, parts.model, parts.rate, parts.train, {**options, "unroll_steps": 1}
        ),
        UPPER: betty_problem(
            UPPER,
            valid_step,
            parts.upper,
            parts.upper_rate,
            parts.valid,
            # Without it a loss with a direct term goes backward twice through a freed graph.
            {"retain_graph": UPPER in parts.valid_reads},
        ),
    }
    lower, upper = problems[MODEL], problems[UPPER]
    run_betty([lower, upper], {upper: [lower]}, {lower: [upper]}, device)
    return Steps(
        lower=lower.one_step_descent, upper=upper.one_step_descent, optimizer=upper.optimizer
    )


def betty_problem(
    name: str,
    training_step: Any,
    module: nn.Module,
    rate: float,
    batches: list[Any],
    options: Mapping[str, Any],
) -> Any:
    """Return a Betty problem trained by SGD; `options` are those of its ``Config``."""
    with quiet():
        problems = import_module("betty.problems")
        config = import_module("betty.configs").Config(**options)
    kind = type(name.capitalize(), (problems.ImplicitProblem,), {"training_step": training_step})
    return kind(
        name=name,
        config=config,
        module=module,
        optimizer=SGD(module.parameters(), lr=rate),
        train_data_loader=batches,
    )


def run_betty(
    problems: list[Any],
    downwards: Mapping[Any, list[Any]],
    upwards: Mapping[Any, list[Any]],
    device: torch.device,
) -> None:
    """Let Betty's engine connect the problems and bring them into training mode."""
    with quiet():
        logging.getLogger("betty").setLevel(logging.ERROR)
        logger = import_module("betty.logging.logger_base").get_logger()
        logger.setLevel(logging.ERROR)
        strategy = "gpu" if device.type == "cuda" else "cpu"
        engine = import_module("betty.engine").Engine(
            config=import_module("betty.configs").EngineConfig(train_iters=1, strategy=strategy),
            problems=problems,
            dependencies={"u2l": downwards, "l2u": upwards},
        )
        engine.train()


def torchopt_cg(parts: Parts, products: int, damping: float) -> Steps:
    """Return the steps of the program with TorchOpt's implicit differentiation by CG."""
    with quiet():
        torchopt = import_module("torchopt")
    both = _Both(parts)
    names = [name for name, _ in both.parts.named_parameters()]
    weights, upper = tuple(parts.model.parameters()), tuple(parts.upper.parameters())
    lower_optimizer = SGD(weights, lr=parts.rate)
    upper_optimizer = SGD(upper, lr=parts.upper_rate)
    train, valid = cycle(parts.train), cycle(parts.valid)
    last: list[Batch] = []

    def functional(
        weights: tuple[Tensor, ...], upper: tuple[Tensor, ...], batch: Batch, *, training: bool
    ) -> Tensor:
        named = dict(zip(names, (*weights, *upper), strict=True))
        loss: Tensor = torch.func.functional_call(both, _prefixed(named), (batch, training))
        return loss

    def inner(weights: tuple[Tensor, ...], upper: tuple[Tensor, ...], batch: Batch) -> Tensor:
        return functional(weights, upper, batch, training=True)

    def as_they_are(
        weights: tuple[Tensor, ...], upper: tuple[Tensor, ...], batch: Batch
    ) -> tuple[Tensor, ...]:
        del upper, batch
        return weights

    solution = torchopt.diff.implicit.custom_root(
        torch.func.grad(inner, argnums=0),
        argnums=1,
        solve=torchopt.linear_solve.solve_cg(maxiter=products, ridge=damping, rtol=0.0),
    )(as_they_are)

    def lower_step() -> None:
        last[:] = [next(train)]
        loss = parts.train_loss(parts.model, parts.upper, last[0])
        for parameter, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            parameter.grad = gradient
        lower_optimizer.step()
        lower_optimizer.zero_grad()

    def upper_step() -> None:
        solved = solution(tuple(w.detach() for w in weights), upper, last[0])
        loss = functional(solved, upper, next(valid), training=False)
        gradients = torch.autograd.grad(loss, upper)
        for parameter, gradient in zip(upper, gradients, strict=True):
            parameter.grad = gradient
        upper_optimizer.step()
        upper_optimizer.zero_grad()

    return Steps(lower=lower_step, upper=upper_step, optimizer=upper_optimizer)


class _Both(nn.Module):
    """Both modules in one, for `torch.func.functional_call`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({MODEL: parts.model, UPPER: parts.upper})
        self._train_loss, self._valid_loss = parts.train_loss, parts.valid_loss
        self._valid_reads = parts.valid_reads

    def forward(self, batch: Batch, training: bool) -> Tensor:
        modules = dict(self.parts.items())
        if training:
            return self._train_loss(modules[MODEL], modules[UPPER], batch)
        return self._valid_loss(**{name: modules[name] for name in self._valid_reads}, batch=batch)


def _prefixed(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"parts.{name}": tensor for name, tensor in named.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Hide that peers are older than the torch beside which they run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", SyntaxWarning)
        yield
