"""Which problems a loss reads, taken from its signature."""

import functools
import inspect
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from mlo.errors import GraphError, nearest
from mlo.problem import Problem

BATCH = "batch"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What a loss is called with.

    Attributes:
        problems: Names of the problems whose modules it takes.
        batch: Whether it takes a batch.
        batch_required: Whether it cannot do without one.
    """

    problems: tuple[str, ...]
    batch: bool
    batch_required: bool


def arguments_of(problem: Problem, names: Iterable[str]) -> Arguments:
    """Return what the loss of `problem` reads, given the names of all problems.

    Raises:
        GraphError: If it takes an argument that is neither a problem nor ``batch``, or if its
            signature does not tell and ``reads`` is missing or contradicts it.
    """
    known = tuple(names)
    try:
        # A module is called through its forward.
        called = problem.loss.forward if isinstance(problem.loss, nn.Module) else problem.loss
        parameters = inspect.signature(called).parameters.values()
    except ValueError as error:
        raise GraphError(
            f"problem {problem.name!r}: the signature of its loss cannot be read ({error}); wrap "
            "it in a function whose arguments name what it reads"
        ) from error
    named = [p for p in parameters if p.kind in _NAMED]
    rest = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    for parameter in parameters:
        nameless = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        if nameless and parameter.default is inspect.Parameter.empty:
            raise GraphError(
                f"problem {problem.name!r}: its loss takes {parameter.name!r} by position only, "
                "but losses are called by keyword; drop the '/' from its signature"
            )
    if problem.reads is not None:
        return _declared(problem, problem.reads, named, rest=rest, known=known)
    if rest or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        raise GraphError(
            f"problem {problem.name!r}: the signature of its loss ends in * or ** and does not say "
            f"which problems it reads; list them, itself included, in reads=(...) from {known}"
        )
    for parameter in named:
        required = parameter.default is inspect.Parameter.empty
        if required and parameter.name not in (*known, BATCH):
            raise GraphError(
                f"problem {problem.name!r}: its loss reads {parameter.name!r}, expected 'batch' or "
                f"one of the problems {known}{nearest(parameter.name, (*known, BATCH))}"
            )
    # What functools.partial has bound is given already: such an argument is no read.
    bound = problem.loss.keywords if isinstance(problem.loss, functools.partial) else {}
    taken = [p.name for p in named if p.name not in bound]
    return Arguments(
        problems=tuple(n for n in taken if n in known),
        batch=BATCH in taken,
        batch_required=_requires_batch(named),
    )


def _requires_batch(named: list[inspect.Parameter]) -> bool:
    return any(p.name == BATCH and p.default is inspect.Parameter.empty for p in named)


def _declared(
    problem: Problem,
    reads: tuple[str, ...],
    named: list[inspect.Parameter],
    *,
    rest: bool,
    known: tuple[str, ...],
) -> Arguments:
    for name in reads:
        if name not in known:
            raise GraphError(
                f"problem {problem.name!r}: reads names {name!r}, expected one of the problems "
                f"{known}{nearest(name, known)}"
            )
        if not rest and name not in [p.name for p in named]:
            raise GraphError(
                f"problem {problem.name!r}: reads names {name!r}, but its loss takes no argument "
                f"of that name, only {tuple(p.name for p in named)}"
            )
    for parameter in named:
        required = parameter.default is inspect.Parameter.empty
        if required and parameter.name not in (*reads, BATCH):
            raise GraphError(
                f"problem {problem.name!r}: its loss requires {parameter.name!r}, which reads="
                f"{reads} does not list; reads lists every module that the loss takes"
            )
    # With ** the batch cannot be seen in the signature; then having batches decides.
    takes_batch = BATCH in [p.name for p in named] or (rest and problem.batches is not None)
    return Arguments(
        problems=tuple(dict.fromkeys(reads)),
        batch=takes_batch,
        batch_required=_requires_batch(named),
    )
