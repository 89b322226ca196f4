"""What running asks of a problem beside differentiating: optimizer, scheduler, batches."""

from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mlo.errors import ProblemError
from mlo.graph import Graph
from mlo.history import Recorder
from mlo.problem import Problem


def check_runnable(problem: Problem, graph: Graph) -> None:
    """Refuse a problem that can be differentiated but not run.

    Raises:
        ProblemError: If it lacks an optimizer, or batches do not fit its loss.
    """
    arguments = graph.arguments[problem.name]
    if problem.optimizer is None:
        raise ProblemError(
            f"problem {problem.name!r}: running takes an optimizer, got None; give "
            "optimizer=lambda p: torch.optim.SGD(p, lr=0.1) or the like"
        )
    if arguments.batch_required and problem.batches is None:
        raise ProblemError(f"problem {problem.name!r}: its loss takes a batch, but batches is None")
    if not arguments.batch and problem.batches is not None:
        raise ProblemError(
            f"problem {problem.name!r}: batches are given, but its loss takes no 'batch'"
        )
    if problem.accumulate > 1 and problem.batches is None:
        raise ProblemError(
            f"problem {problem.name!r}: accumulate={problem.accumulate} takes batches, got None"
        )
    outermost = graph.levels[problem.name] == max(graph.levels.values())
    if outermost and problem.steps != 1:
        raise ProblemError(
            f"problem {problem.name!r}: it is outermost, and a round is one update of it, so steps "
            f"must be 1, got {problem.steps}"
        )


def scheduler_of(problem: Problem, optimizer: Optimizer) -> LRScheduler:
    """Return the scheduler of a problem that declares one.

    Raises:
        ProblemError: If what it declares is none.
    """
    made = problem.scheduler
    if made is not None and not isinstance(made, LRScheduler):
        made = made(optimizer)
    if not isinstance(made, LRScheduler):
        raise ProblemError(
            f"problem {problem.name!r}: scheduler must give a torch.optim.lr_scheduler, got "
            f"{type(made).__name__}"
        )
    return made


def optimizer_of(problem: Problem) -> Optimizer:
    """Return the live optimizer of a problem.

    Raises:
        ProblemError: If what it declares is none, needs a closure, or holds foreign parameters.
    """
    parameters = problem.parameters()
    made = problem.optimizer
    if made is not None and not isinstance(made, Optimizer):
        made = made(list(parameters.values()))
    if not isinstance(made, Optimizer) or isinstance(made, LBFGS):
        raise ProblemError(
            f"problem {problem.name!r}: optimizer must give a torch.optim.Optimizer whose step "
            f"takes no closure, got {type(made).__name__}"
        )
    own = {id(p) for p in problem.module.parameters()}
    if any(id(p) not in own for group in made.param_groups for p in group["params"]):
        raise ProblemError(
            f"problem {problem.name!r}: its optimizer holds a parameter that its module does not "
            "have; each problem trains its own parameters"
        )
    return made


def recorders_of(graph: Graph) -> dict[str, Recorder]:
    """Return a recorder for each problem whose response replays its last updates."""
    responding = {n for sweep in graph.sweeps.values() for n in sweep.flows}
    makers = {n: graph.response(n).recorder for n in graph.problems if n in responding}
    return {n: make(graph.problems[n].steps) for n, make in makers.items() if make is not None}
