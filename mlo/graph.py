"""A multilevel program: problems, what they read, and in which order they respond."""

from collections.abc import Iterable, Mapping

from mlo.errors import GraphError, nearest
from mlo.explain import View, explanation, mermaid
from mlo.functional import PureLoss
from mlo.order import Sweep, sweep_of
from mlo.parallel.sharded import check_first_order
from mlo.problem import Problem
from mlo.reads import Arguments, arguments_of
from mlo.response.one_step import finite_difference
from mlo.response.protocol import Response, response_of


class Graph:
    """Problems that read each other, lowest level first.

    Every mistake that can be seen without running is raised here.

    Args:
        *problems: Lowest level first; each is a level of its own unless `levels` says otherwise.
        levels: Level of every problem by name, 0 the lowest. Problems of one level do not respond
            to each other.

    Attributes:
        problems: By name, in the order given.
        levels: Level of each problem, numbered from 0 without gaps.
        arguments: What each loss is called with.
        sweeps: How each problem is differentiated.

    Raises:
        GraphError: If the problems do not fit together.

    >>> from torch import nn
    >>> graph = Graph(
    ...     Problem(name="model", module=nn.Linear(1, 1),
    ...             loss=lambda model, penalty: penalty.weight.exp().sum() * model.weight.sum()),
    ...     Problem(name="penalty", module=nn.Linear(1, 1),
    ...             loss=lambda model: model.weight.square().sum()),
    ... )
    >>> graph.sweeps["penalty"].order
    ('model',)
    """

    def __init__(self, *problems: Problem, levels: Mapping[str, int] | None = None) -> None:
        _check_problems(problems)
        self.problems: Mapping[str, Problem] = {p.name: p for p in problems}
        self.levels: Mapping[str, int] = _levels_of(tuple(self.problems), levels)
        self.arguments: Mapping[str, Arguments] = {
            p.name: arguments_of(p, self.problems) for p in problems
        }
        reads = {name: taken.problems for name, taken in self.arguments.items()}
        constants = [n for n in self.problems if not self.response(n).differentiates]
        self.sweeps: Mapping[str, Sweep] = {
            name: sweep_of(name, reads, self.levels, constants) for name in self.problems
        }
        for problem in problems:
            _check_moves(problem, self)
            _check_responds(problem, self)
        for sweep in self.sweeps.values():
            _check_nested(sweep, self)
            _check_sharded(sweep, self)

    def problem(self, name: str) -> Problem:
        """Return the problem called `name`.

        Raises:
            GraphError: If there is none.
        """
        if name not in self.problems:
            raise GraphError(
                f"no problem is called {name!r}, expected one of {tuple(self.problems)}"
                f"{nearest(name, self.problems)}"
            )
        return self.problems[name]

    def response(self, name: str) -> Response:
        """Return how the problem called `name` is differentiated."""
        response = self.problem(name).response
        return finite_difference() if response is None else response_of(response)

    def reads(self, name: str) -> tuple[str, ...]:
        """Return the problems that the loss of `name` reads, in the order of its signature."""
        return self.arguments[self.problem(name).name].problems

    def pure_loss(self, name: str) -> PureLoss:
        """Return the loss of `name` as a pure function of the parameters of what it reads."""
        problem = self.problem(name)
        return PureLoss(
            name,
            problem.loss,
            {n: self.problems[n].module for n in self.reads(name)},
            takes_batch=self.arguments[name].batch,
            requires_batch=self.arguments[name].batch_required,
        )

    def explain(self) -> str:
        """Return levels, edges, sweeps and gradient evaluations per round as text."""
        return explanation(self._views())

    def draw(self) -> str:
        """Return the graph as Mermaid text: an arrow leads from what is read to who reads it."""
        return mermaid(self._views())

    def __repr__(self) -> str:
        return f"Graph({', '.join(self.problems)})"

    def _is_nested(self, name: str) -> bool:
        """Return whether anything is differentiated through a reduced objective of `name`."""
        return any(sweep.within.get(name) for sweep in self.sweeps.values())

    def _views(self) -> list[View]:
        return [
            View(
                name=name,
                level=self.levels[name],
                steps=problem.steps,
                reads=self.reads(name),
                takes_batch=self.arguments[name].batch,
                sweep=self.sweeps[name],
                response=self.response(name).label,
                evaluations=None if self._is_nested(name) else self.response(name).evaluations,
                num_parameters=sum(p.numel() for p in problem.parameters().values()),
            )
            for name, problem in self.problems.items()
        ]


def _check_problems(problems: tuple[Problem, ...]) -> None:
    if not problems:
        raise GraphError("a graph needs at least one problem, got none")
    owners: dict[int, str] = {}
    names: set[str] = set()
    for problem in problems:
        if not isinstance(problem, Problem):
            raise GraphError(f"a graph takes Problem objects, got {type(problem).__name__}")
        if problem.name in names:
            raise GraphError(f"two problems are called {problem.name!r}; names must be unique")
        names.add(problem.name)
        for name, parameter in problem.parameters().items():
            owner = owners.setdefault(id(parameter), problem.name)
            if owner != problem.name:
                raise GraphError(
                    f"problems {owner!r} and {problem.name!r} both train the same tensor "
                    f"({problem.name}.{name}); each parameter belongs to one problem"
                )


def _levels_of(names: tuple[str, ...], levels: Mapping[str, int] | None) -> dict[str, int]:
    if levels is None:
        return {name: position for position, name in enumerate(names)}
    for name in levels:
        if name not in names:
            raise GraphError(
                f"levels names {name!r}, expected one of the problems {names}{nearest(name, names)}"
            )
    missing = [name for name in names if name not in levels]
    if missing:
        raise GraphError(f"levels does not say the level of {missing[0]!r}; got {dict(levels)}")
    for name, level in levels.items():
        if isinstance(level, bool) or not isinstance(level, int):
            raise GraphError(f"levels: level of {name!r} must be an integer, got {level!r}")
    ranks = {level: rank for rank, level in enumerate(sorted(set(levels.values())))}
    return {name: ranks[levels[name]] for name in names}


def _check_moves(problem: Problem, graph: Graph) -> None:
    """Refuse a problem whose gradient is zero, or lacks the indirect part that was meant."""
    name = problem.name
    if graph.sweeps[name].order:
        return
    level = graph.levels[name]
    others = [n for n in graph.problems if n != name and name in graph.reads(n)]
    if name not in graph.reads(name):
        above = [n for n in others if graph.levels[n] > level]
        hint = f"Did a lower loss mean to take {name!r}?"
        if above:
            hint = (
                f"{above[0]!r} reads it but is of a higher level: a problem is differentiated "
                "through lower ones only; list the lowest level first"
            )
        raise GraphError(
            f"problem {name!r} would never move: its loss does not read {name!r}, and no lower "
            f"problem that it reads depends on it. {_who_reads_what(graph)} {hint}"
        )
    lower = [n for n in graph.reads(name) if graph.levels[n] < level]
    constant = [n for n in lower if not graph.response(n).differentiates]
    is_inner_stage = any(graph.levels[n] >= level for n in others) or any(
        name in sweep.order for sweep in graph.sweeps.values()
    )
    if not is_inner_stage and len(constant) < len(lower):
        through = next(n for n in lower if n not in constant)
        raise GraphError(
            f"problem {name!r}: its loss reads the lower problem {through!r}, but no lower loss "
            f"that it reads depends on {name!r}, so nothing would be differentiated through "
            f"{through!r}. {_who_reads_what(graph)} If it is meant as a constant, give "
            f"{through!r} response=mlo.constant()"
        )


def _check_responds(problem: Problem, graph: Graph) -> None:
    """Refuse a declared response that nothing uses."""
    if problem.response is None:
        return
    response = graph.response(problem.name)
    if not response.differentiates:
        return
    if not any(problem.name in sweep.order for sweep in graph.sweeps.values()):
        raise GraphError(
            f"problem {problem.name!r} declares response={response.label}, but nothing "
            f"differentiates through it: that takes a problem of a higher level that reads "
            f"{problem.name!r} (or something that depends on it) and that {problem.name!r} reads. "
            f"{_who_reads_what(graph)}"
        )


def _check_nested(sweep: Sweep, graph: Graph) -> None:
    """Refuse a problem inside another's objective whose solution autograd cannot follow."""
    for name in sweep.order:
        for lower in sweep.within[name]:
            if graph.response(lower).solution is None:
                raise GraphError(
                    f"problem {lower!r}: its solution is part of the objective of {name!r}, "
                    f"through which {sweep.target!r} is differentiated, and "
                    f"{graph.response(lower).label} cannot be differentiated again; give {lower!r} "
                    "a response such as mlo.cg() or mlo.unrolled(), or mlo.constant() to drop its "
                    "path on purpose"
                )


def _check_sharded(sweep: Sweep, graph: Graph) -> None:
    """Refuse second derivatives of losses that read sharded modules."""
    for name in sweep.order:
        response = graph.response(name)
        check_first_order(
            name,
            response.label,
            {n: graph.problems[n].module for n in (name, *graph.reads(name))},
            is_first_order=response.sharded and not sweep.within[name],
        )


def _who_reads_what(graph: Graph) -> str:
    return _sentence((name, graph.reads(name)) for name in graph.problems)


def _sentence(reads: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    return "; ".join(f"{name} reads {', '.join(r) or 'nothing'}" for name, r in reads) + "."
