"""One step of a live torch optimizer as a pure function that autograd can follow.

``(θ, g, state) ↦ (θ⁺, state⁺)`` is computed by the ``step`` of the optimizer's own class with
``differentiable=True``, on copies: the live optimizer, its state and the tensors given are not
touched. Four places where that mode of torch is not the derivative of what training does are
mended here:

- the first momentum of `SGD` is taken from a detached gradient;
- ``√v`` has an infinite slope at ``v = 0``, which makes NaN of the derivative of every entry whose
  gradient has always been zero (a dead ReLU);
- bias corrections are rounded to float32, whatever the dtype of the parameters;
- `Adam` divides by the learning rate, which a schedule may start at zero.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from mlo import tree
from mlo.errors import ResponseError
from mlo.tree import Params

OptimizerState = dict[str, dict[str, Any]]
"""What an optimizer remembers of each parameter, by parameter name."""

Hyperparameters = Mapping[str, Mapping[str, Any]]
"""Learning rate, betas, weight decay and so on of each parameter, by parameter name."""

_NOT_OPTIONS = frozenset({"params", "param_names"})
_SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"})
_PLAIN = {"foreach": False, "fused": False, "capturable": False, "differentiable": True}


def hyperparameters_of(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> Hyperparameters:
    """Return copies of the hyperparameters of every named parameter that the optimizer holds.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> hyperparameters_of(SGD([weight], lr=0.1), {"weight": weight})["weight"]["lr"]
    0.1
    """
    names = {id(p): name for name, p in parameters.items()}
    found: dict[str, Mapping[str, Any]] = {}
    for group in optimizer.param_groups:
        options = {k: _copied(v) for k, v in group.items() if k not in _NOT_OPTIONS}
        for parameter in group["params"]:
            if id(parameter) in names:
                found[names[id(parameter)]] = options
    return found


def state_of(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> OptimizerState:
    """Return copies of what the optimizer remembers of every named parameter.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> state_of(Adam([weight]), {"weight": weight})
    {'weight': {}}
    """
    return {
        name: {k: _copied(v) for k, v in optimizer.state.get(parameter, {}).items()}
        for name, parameter in parameters.items()
    }


def check_differentiable(problem: str, optimizer: Optimizer | None) -> Optimizer:
    """Return the optimizer if its step can be differentiated.

    Raises:
        ResponseError: If there is none, or its class does not offer ``differentiable=True``.

    >>> check_differentiable("model", None)
    Traceback (most recent call last):
        ...
    mlo.errors.ResponseError: problem 'model': the response differentiates the updates of its \
optimizer, got none; give the problem an optimizer, or another response such as mlo.cg()
    """
    if optimizer is None:
        raise ResponseError(
            f"problem {problem!r}: the response differentiates the updates of its optimizer, got "
            "none; give the problem an optimizer, or another response such as mlo.cg()"
        )
    if any("differentiable" not in group for group in optimizer.param_groups):
        raise ResponseError(
            f"problem {problem!r}: the response differentiates the updates of its optimizer, "
            f"which {type(optimizer).__name__} does not offer (differentiable=True); use SGD, "
            "Adam, AdamW, RMSprop or the like, or another response such as mlo.cg()"
        )
    return optimizer


def step(
    optimizer: Optimizer,
    params: Params,
    gradient: Params,
    state: OptimizerState,
    hyperparameters: Hyperparameters,
) -> tuple[Params, OptimizerState]:
    """``(θ, g, state) ↦ (θ⁺, state⁺)``: what ``optimizer.step()`` would do, differentiably.

    Both results are functions of `params`, `gradient` and `state` that autograd follows, any
    number of times. Values agree with the real step to rounding.

    Args:
        optimizer: Says whose step it is; its own state and groups are not used.
        params: ``θ``.
        gradient: ``g``. A parameter without one is not moved, as when ``.grad`` is None.
        state: What the optimizer remembers of each parameter; `state_of` reads it. Empty for one
            that has made no step.
        hyperparameters: Of each parameter; `hyperparameters_of` reads them. A parameter without
            is not held by the optimizer, so it is not moved.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> rate = torch.tensor(0.5, requires_grad=True)
    >>> optimizer = SGD([weight], lr=0.1)
    >>> moved, _ = step(optimizer, {"w": weight}, {"w": rate * weight}, {},
    ...                 hyperparameters_of(optimizer, {"w": weight}))
    >>> moved["w"], *torch.autograd.grad(moved["w"].sum(), rate)
    (tensor([0.9500], grad_fn=<AddBackward0>), tensor(-0.1000))
    """
    names = [name for name in params if name in gradient and name in hyperparameters]
    moved = {name: params[name].clone() for name in names}
    groups: list[dict[str, Any]] = []
    held: defaultdict[Tensor, Any] = defaultdict(dict)
    for name, tensor in tree.dense({n: gradient[n] for n in names}).items():
        remembered = _Remembered(tensor.detach())
        for key, value in state.get(name, {}).items():
            remembered[key] = value.clone() if isinstance(value, Tensor) else value
        options = dict(hyperparameters[name])
        if isinstance(optimizer, SGD) and options["momentum"]:
            _begin_momentum(moved[name], remembered, options)
        if isinstance(optimizer, Adam) and _is_zero(options["lr"]):
            # The state moves on as always; what becomes of the parameter is discarded below.
            options["lr"] = 1.0
        plain = {key: value for key, value in _PLAIN.items() if key in options}
        moved[name].grad = tensor
        held[moved[name]] = remembered
        # One group for each parameter, as hyperparameters may differ.
        groups.append({**options, **plain, "params": [moved[name]]})
    if groups:
        _replica(optimizer, groups, held).step()
    after = {name: dict(held[tensor]) for name, tensor in moved.items()}
    for name, tensor in moved.items():
        tensor.grad = None
        if isinstance(optimizer, Adam) and _is_zero(hyperparameters[name]["lr"]):
            moved[name] = params[name]
    return {**params, **moved}, {**state, **after}


class _Remembered(dict[str, Any]):
    """The state of one parameter; also what the optimizer adds at its first step is mended.

    A second moment of a gradient entry that is zero is kept above zero. The first moment is zero
    where the second is, so that no value changes, and ``√v`` gets a finite slope, which the zero
    derivative of ``g²`` then meets. The bound is such that second derivatives are finite too.
    """

    def __init__(self, gradient: Tensor) -> None:
        super().__init__()
        self._gradient = gradient

    def __setitem__(self, key: str, value: Any) -> None:
        if key in _SECOND_MOMENTS:
            least = torch.finfo(value.dtype).tiny ** (2 / 3)
            value = torch.where(self._gradient == 0, value.clamp(min=least), value)
        elif key == "step" and isinstance(value, Tensor) and value.device.type != "mps":
            value = value.double()
        super().__setitem__(key, value)


def _begin_momentum(parameter: Tensor, state: dict[str, Any], options: dict[str, Any]) -> None:
    """Start from a buffer of zeros, undamped: the same value as a copy of the first gradient."""
    if state.get("momentum_buffer") is None:
        state["momentum_buffer"] = torch.zeros_like(parameter)
        options["dampening"] = 0.0


def _replica(
    optimizer: Optimizer, groups: list[dict[str, Any]], state: defaultdict[Tensor, Any]
) -> Optimizer:
    """Return an optimizer of the same class without what was hung onto the live one.

    Hooks and the counters of schedulers belong to the live optimizer; pickling leaves them out in
    the same way.
    """
    replica: Optimizer = object.__new__(type(optimizer))
    defaults = {**optimizer.defaults, "differentiable": True}
    replica.__setstate__({"defaults": defaults, "state": state, "param_groups": groups})
    return replica


def _is_zero(rate: float | Tensor) -> bool:
    # A rate on a device is not read: waiting for it costs more than the rare schedule is worth.
    return not (isinstance(rate, Tensor) and rate.device.type != "cpu") and float(rate) == 0.0


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return tuple(map(_copied, value)) if isinstance(value, tuple) else value
