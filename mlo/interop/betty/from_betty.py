"""A Betty program as a `mlo.Graph`."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from mlo.errors import GraphError, ProblemError, nearest
from mlo.graph import Graph
from mlo.interop.betty import supported
from mlo.interop.betty.declared_problem import Declared
from mlo.interop.betty.edges import Edges, check, levels_of
from mlo.interop.betty.execution import period_of, steps_of
from mlo.interop.betty.loading import Drawn, Together
from mlo.interop.betty.method import response_of
from mlo.problem import Loss, Problem

Dependencies = Mapping[str, Mapping[Any, Sequence[Any]]]


def from_betty(problems: Sequence[Any], dependencies: Dependencies) -> Graph:
    """Return the graph in which ``dependencies`` are reads, as ``betty.engine.Engine`` takes them.

    The loss of a problem calls its ``training_step`` on a copy of the Betty problem, whose module,
    and those of the problems that it may reach by name, are the ones that `mlo` passes; a loss in a
    dictionary is taken out. Levels follow ``l2u``, steps ``unroll_steps``, responses
    ``config.type``; optimizers and schedulers are the objects given, not remade. Modules,
    loaders, optimizers and schedulers may come from ``configure_...`` methods. A problem that
    `to_betty` made becomes the one that it was made from.

    The problems given are not changed, but modules are shared: training one trains the other.

    Args:
        problems: Betty problems, in any order.
        dependencies: ``{"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}``.

    Raises:
        GraphError: If the edges cannot be meant: unknown or isolated problems, circles, a ``u2l``
            edge without a way back, a missing one.
        ProblemError: If a problem uses what has no counterpart, such as gradient accumulation.
        ResponseError: If its ``config.type`` has none.

    >>> import pytest, torch
    >>> problems = pytest.importorskip("betty.problems")
    >>> from betty.configs import Config
    >>> class Line(problems.ImplicitProblem):
    ...     def training_step(self, batch):
    ...         return (self.module.weight - batch).square().sum()
    >>> line = Line("line", Config(), module=nn.Linear(1, 1), train_data_loader=[torch.ones(1)])
    >>> from_betty([line], {"u2l": {}, "l2u": {}})
    Graph(line)
    """
    named = _by_name(problems)
    edges = _edges(named, dependencies)
    levels = levels_of(named, edges)
    check(named, edges)
    for name, problem in named.items():
        supported.check(problem)
        unroll = problem.config.unroll_steps
        if isinstance(unroll, bool) or not isinstance(unroll, int) or unroll < 1:
            raise ProblemError(
                f"problem {name!r}: config.unroll_steps must be an integer >= 1, got {unroll!r}"
            )
    ordered = sorted(named, key=lambda n: levels[n])
    unrolls = {
        name: named[name].config.unroll_steps if edges.upwards.get(name) else 1 for name in ordered
    }
    steps = steps_of(period_of(unrolls, edges), {n: levels[n] for n in ordered})
    views = {name: _configured(problem) for name, problem in named.items()}
    for name, view in views.items():
        for other in views:
            if other != name:
                readable = other in edges.reads(name)
                setattr(view, other, views[other] if readable else _Undeclared(name, other))
    declared = {name: _declared(name, views, edges, steps[name]) for name in ordered}
    graph = Graph(*declared.values(), levels=levels)
    for name in {solved for sweep in graph.sweeps.values() for solved in sweep.order}:
        if not isinstance(views[name].cfg, Declared):
            response = response_of(name, views[name].config, views[name].optimizer)
            declared[name] = replace(declared[name], response=response)
    return Graph(*declared.values(), levels=levels)


def from_betty_engine(engine: Any) -> Graph:
    """Return the graph of a ``betty.engine.Engine``; see `from_betty`.

    Its optimizers and schedulers are those that Betty has remade from their defaults. Wherever
    their groups or state matter, give the problems to `from_betty` before Betty gets them.

    Raises:
        MloError: As `from_betty`; and a `ProblemError` if the engine uses what has no counterpart.

    >>> import pytest
    >>> betty = pytest.importorskip("betty.engine")
    >>> from_betty_engine(betty.Engine(problems=[], dependencies={"u2l": {}, "l2u": {}}))
    Traceback (most recent call last):
        ...
    mlo.errors.GraphError: a graph needs at least one problem, got none
    """
    supported.check_engine(engine)
    return from_betty(engine.problems, engine.dependencies)


class _Undeclared:
    """Stands for a problem that a loss may not read, as no edge says so."""

    def __init__(self, reader: str, read: str) -> None:
        self._message = (
            f"problem {reader!r}: its training_step reads {read!r}, but no edge joins them, so its "
            f"gradient would be lost; add {read!r} -> {reader!r}, to l2u if {reader!r} is the "
            "higher one, else to u2l"
        )

    def __getattr__(self, name: str) -> Any:
        raise GraphError(self._message)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        raise GraphError(self._message)


def _by_name(problems: Sequence[Any]) -> dict[str, Any]:
    if not problems:
        raise GraphError("a graph needs at least one problem, got none")
    named: dict[str, Any] = {}
    for problem in problems:
        if not callable(getattr(problem, "training_step", None)):
            raise GraphError(
                "problems must be Betty problems with a training_step, got "
                f"{type(problem).__name__}"
            )
        if problem.name in named:
            raise GraphError(f"two problems are called {problem.name!r}; names must be unique")
        named[problem.name] = problem
    return named


def _edges(named: Mapping[str, Any], dependencies: Dependencies) -> Edges:
    if not isinstance(dependencies, Mapping):
        raise GraphError(
            'dependencies must be {"u2l": {...}, "l2u": {...}}, '
            f"got {type(dependencies).__name__}"
        )
    for key in dependencies:
        if key not in ("u2l", "l2u"):
            raise GraphError(
                f"dependencies has the key {key!r}, expected 'u2l' and 'l2u'"
                f"{nearest(str(key), ('u2l', 'l2u'))}"
            )
    return Edges(
        downwards=_names(named, "u2l", dependencies.get("u2l", {})),
        upwards=_names(named, "l2u", dependencies.get("l2u", {})),
    )


def _names(
    named: Mapping[str, Any], key: str, edges: Mapping[Any, Iterable[Any]]
) -> dict[str, tuple[str, ...]]:
    names = {id(problem): name for name, problem in named.items()}
    for start, ends in edges.items():
        for problem in (start, *ends):
            if id(problem) not in names:
                called = getattr(problem, "name", problem)
                raise GraphError(
                    f"{key} has {called!r} ({type(problem).__name__}), which is none of the "
                    f"problems {tuple(named)}; its keys and lists hold the problem objects"
                )
    return {
        names[id(start)]: tuple(dict.fromkeys(names[id(end)] for end in ends))
        for start, ends in edges.items()
        if ends
    }


def _configured(problem: Any) -> Any:
    """Return a copy with what its ``configure_...`` methods make, in the order that Betty asks."""
    view = copy.copy(problem)
    for field in ("train_data_loader", "module", "optimizer", "scheduler"):
        configure = getattr(view, f"configure_{field}", None)
        if getattr(view, field) is None and callable(configure):
            setattr(view, field, configure())
    if view.module is None:
        raise ProblemError(f"problem {view.name!r}: it has no module and no configure_module")
    return view


def _declared(name: str, views: Mapping[str, Any], edges: Edges, steps: int) -> Problem:
    view = views[name]
    if isinstance(view.cfg, Declared):
        return replace(view.cfg.problem, steps=steps)
    supported.check_trained(view)
    return Problem(
        name=name,
        module=view.module,
        loss=_loss(name, views),
        reads=edges.reads(name),
        batches=_batches(view),
        optimizer=view.optimizer,
        scheduler=view.scheduler,
        steps=steps,
    )


def _loss(name: str, views: Mapping[str, Any]) -> Loss:
    view = views[name]

    def training_step(batch: Any, **modules: nn.Module) -> Tensor:
        for read, module in modules.items():
            views[read].module = module
            # Betty sets it when its engine starts; training steps make new tensors on it.
            views[read].device = next(module.parameters()).device
        found = view.training_step(batch)
        loss: Tensor = found["loss"] if isinstance(found, dict) else found
        return loss

    return training_step


def _batches(view: Any) -> Iterable[Any]:
    loaders = view.train_data_loader
    if supported.overrides(view, "get_batch"):
        return Drawn(draw=view.get_batch)
    if loaders is None:
        raise ProblemError(f"problem {view.name!r}: it has no train_data_loader and no get_batch")
    # Before Betty's engine starts several loaders are a tuple, afterwards they are a list.
    if not isinstance(loaders, tuple) and view.train_data_iterator is None:
        single: Iterable[Any] = loaders
        return single
    if len(loaders) == 1:
        only: Iterable[Any] = loaders[0]
        return only
    return Together(problem=view.name, loaders=tuple(loaders))
