"""What the engine knows of a solved problem, handed to its response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Adafactor, Muon, Optimizer

from mlo.errors import ResponseError
from mlo.history import History
from mlo.outcome import Outcome
from mlo.tree import Params

Rate = float | Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """The optimizer's view of one solved problem.

    Attributes:
        problem: Its name.
        rates: Learning rate of each parameter, keyed like ``named_parameters()``; empty if the
            problem has no optimizer.
        decay: What the optimizer's weight decay adds to the diagonal of the Hessian, likewise.
        sign: 1 if the optimizer minimises the loss, -1 if it maximises.
        unseen: What of the optimizer could not be counted, in words.
        optimizer: The live optimizer, or None.
        memory: What a response keeps of this problem from one call to the next: tensors, numbers
            and dictionaries of them. The engine hands the same object in again.
        parameters: What the problem trains, by name: the objects that the optimizer holds.
        history: The problem's last updates, where the engine has recorded them.
        start: Where updates that a response makes of its own begin, if not at the solution.
        reports: Where solves within another problem's objective leave their outcomes.
        upstream: Present values of what the solution depends on, keyed ``problem.name``, where the
            solution is part of another problem's objective.
    """

    problem: str = ""
    rates: Mapping[str, Rate] = field(default_factory=dict)
    decay: Mapping[str, Rate] = field(default_factory=dict)
    sign: float = 1.0
    unseen: str = ""
    optimizer: Optimizer | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    history: History | None = None
    start: Params | None = None
    reports: list[Outcome] | None = None
    upstream: Mapping[str, Tensor] = field(default_factory=dict)

    def rate_of_each(self, rate: float | None, names: Mapping[str, Tensor]) -> Mapping[str, Rate]:
        """Return `rate` for every name or, if it is None, the optimizer's learning rates.

        Raises:
            ResponseError: If neither is known.
        """
        if rate is not None:
            return dict.fromkeys(names, rate)
        missing = [name for name in names if name not in self.rates]
        if missing:
            raise ResponseError(
                f"problem {self.problem!r}: the response needs a learning rate for "
                f"{missing[0]!r}, got none; give the problem an optimizer that holds this "
                "parameter, or give the response rate=..."
            )
        return self.rates


def context_of(
    problem: str,
    parameters: Mapping[str, Tensor],
    optimizer: Optimizer | None,
    *,
    memory: dict[str, Any] | None = None,
    history: History | None = None,
) -> Context:
    """Read learning rates and weight decay out of a live optimizer.

    Weight decay is part of the objective that the optimizer minimises, so of its Hessian. With
    decoupled decay (AdamW) the fixed point is ``g + λ·P·θ = 0`` where ``P`` is the diagonal that
    the optimizer divides by: ``√v̂ + ε``, read from its state. Where that is unknown (before its
    first step, or in an optimizer of another kind) nothing is added and `Context.unseen` says so.

    Raises:
        ResponseError: If the optimizer minimises with some parameters and maximises with others.
    """
    if optimizer is None:
        return Context(
            problem=problem, parameters=parameters, memory={} if memory is None else memory
        )
    names = {id(p): name for name, p in parameters.items()}
    rates: dict[str, Rate] = {}
    decay: dict[str, Rate] = {}
    signs: set[float] = set()
    unseen = ""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names.get(id(parameter))
            if name is None:
                continue
            rates[name] = group["lr"]
            signs.add(-1.0 if group.get("maximize", False) else 1.0)
            if strength := group.get("weight_decay", 0):
                scale = _decay_scale(optimizer, group, optimizer.state.get(parameter, {}))
                if scale is None:
                    unseen = (
                        f"the decoupled weight decay {strength:g} of {type(optimizer).__name__} is "
                        "not counted in the Hessian, as its scale is not known before a step"
                    )
                else:
                    decay[name] = strength * scale
    if len(signs) > 1:
        raise ResponseError(
            f"problem {problem!r}: its optimizer maximises some parameter groups and minimises "
            "others, which no response can differentiate; use one sign for all"
        )
    return Context(
        problem=problem,
        rates=rates,
        decay=decay,
        sign=signs.pop() if signs else 1.0,
        unseen=unseen,
        optimizer=optimizer,
        parameters=parameters,
        memory={} if memory is None else memory,
        history=history,
    )


def _decay_scale(
    optimizer: Optimizer, group: Mapping[str, Any], state: Mapping[str, Any]
) -> Rate | None:
    """Return what multiplies the weight decay on the Hessian's diagonal, None if unknown."""
    if isinstance(optimizer, Adafactor | Muon):
        return None
    if not group.get("decoupled_weight_decay", False):
        return 1.0
    if "exp_avg_sq" not in state:
        return None
    correction: Tensor = 1 - group["betas"][1] ** state["step"]
    second_moment: Tensor = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    scale: Tensor = (second_moment / correction.to(second_moment.device)).sqrt() + group["eps"]
    return scale
