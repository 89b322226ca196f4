"""A Betty problem that computes what a `mlo.Problem` declares."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Optimizer

from mlo.context import Context, context_of
from mlo.errors import ResponseError
from mlo.feed import Feed
from mlo.functional import PureLoss
from mlo.interop.betty.method import Method
from mlo.problem import Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Declared:
    """What a Betty problem made by `to_betty` carries in its ``cfg``.

    Attributes:
        problem: The declaration that it was made from.
        loss: Its pure loss.
        method: How Betty differentiates it; None if nothing differentiates through it.
        feed: Where its batches come from, if it takes any.
    """

    problem: Problem
    loss: PureLoss
    method: Method | None
    feed: Feed | None


def problem_class(implicit_problem: type) -> Any:
    """Return a subclass of Betty's `ImplicitProblem` that takes a `Declared` as its ``cfg``.

    >>> problem_class(object).__name__
    'DeclaredProblem'
    """
    return type(
        "DeclaredProblem",
        (implicit_problem,),
        {
            "get_batch": lambda self: self.cfg.feed.draw() if self.cfg.feed else None,
            "get_loss": _update_loss,
            "training_step": lambda self, batch: self.cfg.loss({}, batch),
            "training_step_exec": _solved_objective,
            "parameters": _trained,
            "trainable_parameters": _trained,
            # Betty would replace both by objects that it makes from their default arguments.
            "patch_optimizer": _keep,
            "patch_scheduler": _keep,
        },
    )


def _keep(betty_problem: Any) -> None:
    del betty_problem


def _trained(betty_problem: Any) -> list[Parameter]:
    return list(betty_problem.cfg.problem.parameters().values())


def _update_loss(betty_problem: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of the problem's own update, which Betty asks of ``get_loss``."""
    declared: Declared = betty_problem.cfg
    loss = declared.loss({}, batch, moves=declared.problem.name)
    return loss, {"loss": loss.detach()}


def _solved_objective(betty_problem: Any, batch: Any) -> Tensor:
    """Return the objective that was minimised, which Betty differentiates twice.

    It asks ``training_step_exec`` for it, where it would take the bare loss.
    """
    declared: Declared = betty_problem.cfg
    parameters = declared.problem.parameters()
    context = context_of(declared.problem.name, parameters, betty_problem.optimizer)
    objective = context.sign * declared.loss({}, batch)
    method = declared.method
    damping = 0.0 if method is None else method.damping
    for name, parameter in parameters.items():
        if damping or name in context.decay:
            ridge = context.decay.get(name, 0.0) + damping
            objective = objective + (ridge * parameter.square()).sum() / 2
    if method is not None and lacks_rate(method, betty_problem.optimizer):
        # One-step methods are linear in the loss, so this is the factor on their answer.
        objective = objective * one_rate(declared.problem, method, context)
    return objective


def lacks_rate(method: Method, optimizer: Optimizer) -> bool:
    """Return whether Betty leaves the learning rate out of its one-step method.

    >>> lacks_rate(Method(type="cg", options={}), SGD([Parameter()], lr=0.1))
    False
    """
    return method.type == "darts" or (method.type == "sama" and isinstance(optimizer, SGD))


def one_rate(problem: Problem, method: Method, context: Context) -> float:
    """Return the learning rate of the response or, if it has none, of the optimizer.

    Raises:
        ResponseError: If the optimizer has several.

    >>> from torch import nn
    >>> line = nn.Linear(1, 1)
    >>> problem = Problem(name="line", module=line, loss=lambda line: line.weight.sum())
    >>> one_rate(problem, Method(type="darts", options={}, rate=0.5), Context())
    0.5
    """
    if method.rate is not None:
        return method.rate
    rates = sorted({float(rate) for rate in context.rates.values()})
    if len(rates) != 1 or len(context.rates) < len(problem.parameters()):
        raise ResponseError(
            f"problem {problem.name!r}: Betty knows one rate for all parameters of a problem, but "
            f"its optimizer has {rates}; give its response rate=..."
        )
    return rates[0]
