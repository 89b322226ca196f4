"""A `mlo.Graph` on Betty's engine."""

import importlib
import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mlo.context import context_of
from mlo.device import resolve
from mlo.errors import GraphError, MloError, ProblemError, ResponseError
from mlo.feed import Feed
from mlo.graph import Graph
from mlo.interop.betty.declared_problem import (
    Declared,
    lacks_rate,
    one_rate,
    problem_class,
)
from mlo.interop.betty.edges import edges_of
from mlo.interop.betty.execution import iterations_per_round
from mlo.interop.betty.method import Method, method_of
from mlo.problem import Problem

INSTALL = "pip install --no-deps --ignore-requires-python betty-ml==0.2.1"


class BettyWarning(UserWarning):
    """Betty computes something else than what was declared."""


def to_betty(graph: Graph, *, rounds: int, device: str | torch.device = "auto") -> Any:
    """Return a ``betty.engine.Engine`` whose ``run()`` makes the updates of `rounds` rounds.

    Betty's paths, order of updates, steps and gradients are those that `graph` declares, so that
    both engines can be compared. Optimizers and schedulers are the user's own objects, where Betty
    would rebuild them from their defaults; batches keep their structure; frozen parameters stay
    out; buffers are moved by a problem's own update only. While Betty differentiates a problem, its
    loss carries the sign and weight decay of the optimizer, the damping of the response and, for
    Betty's one-step methods, the learning rate, all of which Betty leaves out and `mlo` counts.

    What remains Betty's own: its conjugate gradients (wrong in 0.2.1 from the second iteration on;
    a `BettyWarning` says so), SAMA without bias correction, other dropout masks on the two sides of
    a finite difference, one solve for each path, no guard against numbers that are not finite.

    Args:
        graph: The program. Its modules are trained in place.
        rounds: Updates of the outermost problem.
        device: A device, or ``"auto"``; Betty knows the CPU and CUDA.

    Raises:
        MloError: If Betty is not installed, or `rounds` or `device` is not possible.
        GraphError: If Betty would drop a path, update in another order or lose a name.
        ProblemError: If a problem lacks an optimizer or has a scheduler that Betty cannot step.
        ResponseError: If Betty has no counterpart of a response.

    References:
        Choe et al., 2022, arXiv 2207.02849.

    >>> import pytest
    >>> betty = pytest.importorskip("betty")
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> to_betty(Graph(Problem(
    ...     name="line", module=line, loss=lambda line: (line.weight - 2).square().sum(),
    ...     optimizer=lambda p: SGD(p, lr=0.25))), rounds=60, device="cpu").run()
    >>> round(line.weight.item(), 6)
    2.0
    """
    if not isinstance(graph, Graph):
        raise MloError(f"to_betty takes a mlo.Graph, got {type(graph).__name__}")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise MloError(f"rounds must be an integer >= 1, got {rounds!r}")
    betty = _betty()
    place = resolve(device)
    if place.type not in ("cpu", "cuda"):
        raise MloError(f"Betty runs on 'cpu' or 'cuda', got device={str(place)!r}")
    edges = edges_of(graph)
    steps = {name: problem.steps for name, problem in graph.problems.items()}
    iterations = iterations_per_round(steps, graph.levels, edges)
    solved = {name for sweep in graph.sweeps.values() for name in sweep.order}
    _check_names(graph, betty)
    made: dict[str, Any] = {}
    kind = problem_class(betty.ImplicitProblem)
    for name, problem in graph.problems.items():
        optimizer = _optimizer(problem)
        method = None
        if name in solved:
            method = method_of(name, graph.response(name))
            _check_optimizer(problem, optimizer, method)
        made[name] = _made(graph, problem, optimizer, method, place, betty, kind)
    return betty.Engine(
        problems=list(made.values()),
        config=betty.EngineConfig(
            train_iters=rounds * iterations,
            strategy="gpu" if place.type == "cuda" else "cpu",
        ),
        dependencies={
            "u2l": _objects(edges.downwards, made),
            "l2u": _objects(edges.upwards, made),
        },
    )


def _betty() -> SimpleNamespace:
    try:
        engine = importlib.import_module("betty.engine")
        configs = importlib.import_module("betty.configs")
        problems = importlib.import_module("betty.problems")
    except ImportError as error:
        raise MloError(f"to_betty takes Betty ({error}); install it with: {INSTALL}") from error
    return SimpleNamespace(
        Engine=engine.Engine,
        EngineConfig=configs.EngineConfig,
        Config=configs.Config,
        ImplicitProblem=problems.ImplicitProblem,
    )


def _made(
    graph: Graph,
    problem: Problem,
    optimizer: Optimizer,
    method: Method | None,
    device: torch.device,
    betty: SimpleNamespace,
    kind: Any,
) -> Any:
    name = problem.name
    feed = None
    if graph.arguments[name].batch and problem.batches is not None:
        feed = Feed(name, problem.batches, device)
    if graph.arguments[name].batch_required and problem.batches is None:
        raise ProblemError(f"problem {name!r}: its loss takes a batch, but batches is None")
    options: dict[str, Any] = {}
    if method is not None:
        options = {"type": method.type, **method.options}
        if method.type == "neumann" or lacks_rate(method, optimizer):
            rate = one_rate(problem, method, context_of(name, problem.parameters(), optimizer))
            if method.type == "neumann":
                options["neumann_alpha"] = rate
    return kind(
        name=name,
        # The graph of a direct gradient is needed again for the paths, always.
        config=betty.Config(unroll_steps=problem.steps, retain_graph=True, **options),
        module=problem.module,
        optimizer=optimizer,
        scheduler=_scheduler(problem, optimizer),
        extra_config=Declared(
            problem=problem,
            loss=graph.pure_loss(name),
            method=method,
            feed=feed,
        ),
    )


def _check_optimizer(problem: Problem, optimizer: Optimizer, method: Method) -> None:
    name, kind = problem.name, type(optimizer)
    if method.type == "cg" and method.options["cg_iterations"] > 1:
        warnings.warn(
            f"problem {name!r}: the conjugate gradients of betty-ml 0.2.1 are wrong from their "
            "second iteration on (the new direction is built on the old residual); use neumann "
            "for a comparison",
            BettyWarning,
            stacklevel=3,
        )
    if method.type == "neumann" and method.rate is None and problem.scheduler is not None:
        raise ResponseError(
            f"problem {name!r}: its scheduler changes the learning rate, which Betty's neumann "
            "would not follow; give its response rate=..."
        )
    if method.type != "sama":
        return
    if kind in (Adam, AdamW):
        warnings.warn(
            f"problem {name!r}: Betty's sama leaves out the bias correction of {kind.__name__}; "
            "its gradient is longer than that of adaptive(), most of all after few steps",
            BettyWarning,
            stacklevel=3,
        )
    elif kind is not SGD or any(g["nesterov"] or g["dampening"] for g in optimizer.param_groups):
        raise ResponseError(
            f"problem {name!r}: Betty's sama is right for SGD without nesterov and dampening, Adam "
            f"and AdamW only, got {kind.__name__}; give its response finite_difference()"
        )


def _check_names(graph: Graph, betty: SimpleNamespace) -> None:
    """Refuse names that Betty uses itself: it sets problems as attributes of each other."""
    engine = betty.Engine(
        problems=[],
        config=betty.EngineConfig(strategy="cpu"),
        dependencies={"u2l": {}, "l2u": {}},
    )
    taken = {*dir(engine), *dir(betty.ImplicitProblem("", betty.Config()))}
    for name in graph.problems:
        if name in taken:
            raise GraphError(
                f"problem {name!r}: Betty has an attribute of that name, and reaches problems as "
                "attributes; rename the problem"
            )


def _optimizer(problem: Problem) -> Optimizer:
    made = problem.optimizer
    if made is not None and not isinstance(made, Optimizer):
        made = made(list(problem.parameters().values()))
    if not isinstance(made, Optimizer):
        raise ProblemError(
            f"problem {problem.name!r}: running takes an optimizer, got {type(made).__name__}"
        )
    return made


def _scheduler(problem: Problem, optimizer: Optimizer) -> LRScheduler | None:
    made = problem.scheduler
    if made is not None and not isinstance(made, LRScheduler):
        made = made(optimizer)
    if isinstance(made, ReduceLROnPlateau):
        raise ProblemError(
            f"problem {problem.name!r}: Betty steps schedulers without the loss that "
            "ReduceLROnPlateau takes; use another scheduler"
        )
    return made


def _objects(edges: Mapping[str, tuple[str, ...]], made: Mapping[str, Any]) -> dict[Any, list[Any]]:
    return {made[name]: [made[end] for end in ends] for name, ends in edges.items()}
