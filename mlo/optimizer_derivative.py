"""The derivative of a live optimizer's next update with respect to the gradient.

An optimizer moves ``θ⁺ = θ - u(g, state)``. For plain SGD ``∂u/∂g`` is the learning rate; adaptive
optimizers rescale, so that theirs is another matrix, diagonal for those with a closed form here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from mlo import tree
from mlo.optimizer_step import Hyperparameters, hyperparameters_of, state_of, step
from mlo.tree import Params

Options = Mapping[str, Any]
Diagonal = Callable[[Tensor, Options, Options], Tensor]


def pulled_back(
    optimizer: Optimizer,
    parameters: Mapping[str, Tensor],
    params: Params,
    gradient: Params,
    vector: Params,
) -> Params:
    """``v ↦ vᵀ ∂u/∂g`` for the update ``θ⁺ = θ - u(g, state)`` that the optimizer makes next.

    Exact, with bias correction, the learning rate included; zero for parameters that the optimizer
    does not hold. Where the second moment of an entry is zero, the limit is taken, which is finite.

    Args:
        optimizer: The live optimizer; not changed.
        parameters: Its parameters by name, the objects themselves: they find group and state.
        params: ``θ``, for coupled weight decay.
        gradient: ``g``, without weight decay.
        vector: ``v``, keyed like `params`.

    References:
        Choe et al., 2023, arXiv 2310.05674.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> one = {"w": torch.ones(2)}
    >>> pulled_back(SGD([weight], lr=0.1), {"w": weight}, one, one, one)
    {'w': tensor([0.1000, 0.1000])}
    """
    hyperparameters = hyperparameters_of(optimizer, parameters)
    held = [name for name in vector if name in hyperparameters]
    # A subclass may override the step, so that only the class itself is known.
    diagonal = _DIAGONALS.get(type(optimizer))
    if diagonal is None:
        moved = _by_autograd(optimizer, parameters, params, gradient, vector, hyperparameters)
    else:
        moved = {}
        for name in held:
            options, remembered = hyperparameters[name], optimizer.state.get(parameters[name], {})
            sign = -1.0 if options["maximize"] else 1.0
            direction = sign * gradient[name].detach()
            if not options.get("decoupled_weight_decay", False):
                direction = direction + options["weight_decay"] * params[name].detach()
            slope = diagonal(direction, remembered, options) * sign
            # Bias corrections are float64; a 0-dim parameter would take that over.
            moved[name] = (slope * vector[name]).to(vector[name].dtype)
    return {**tree.zeros_like(vector), **moved}


def _by_autograd(
    optimizer: Optimizer,
    parameters: Mapping[str, Tensor],
    params: Params,
    gradient: Params,
    vector: Params,
    hyperparameters: Hyperparameters,
) -> Params:
    """Differentiate one real step."""
    variables = tree.leaves({name: gradient[name] for name in vector if name in hyperparameters})
    state = state_of(optimizer, parameters)
    with torch.enable_grad():
        moved, _ = step(optimizer, tree.constants(params), variables, state, hyperparameters)
        # A name whose step ignores the gradient does not take part.
        names = [name for name in variables if moved[name].requires_grad]
        if not names:
            return {}
        found = torch.autograd.grad(
            [moved[name] for name in names],
            list(variables.values()),
            [vector[name] for name in names],
            allow_unused=True,
        )
    return {name: -g for name, g in zip(variables, found, strict=True) if g is not None}


def _sgd(gradient: Tensor, state: Options, options: Options) -> Tensor:
    slope = torch.ones_like(gradient)
    if options["momentum"]:
        # The first buffer is the gradient itself, undamped.
        started = state.get("momentum_buffer") is not None
        inflow = 1.0 - options["dampening"] if started else 1.0
        slope = slope * (1.0 + options["momentum"] * inflow if options["nesterov"] else inflow)
    derivative: Tensor = options["lr"] * slope
    return derivative


def _adam(gradient: Tensor, state: Options, options: Options) -> Tensor:
    """``u = ξ/c₁ · m / (√(v/c₂) + ε)`` with ``m = β₁m₀ + (1-β₁)g`` and ``v = β₂v₀ + (1-β₂)g²``."""
    beta1, beta2 = options["betas"]
    count = _next_count(state)
    rate, root = options["lr"] / (1 - beta1**count), (1 - beta2**count).sqrt()
    first = (1 - beta1) * gradient + beta1 * _remembered(state, "exp_avg", gradient)
    second = (1 - beta2) * gradient.square() + beta2 * _remembered(state, "exp_avg_sq", gradient)
    follows: float | Tensor = 1.0
    if options["amsgrad"]:
        largest = _remembered(state, "max_exp_avg_sq", gradient)
        # The slope of max(largest, second); one half where both are equal, as in autograd.
        follows = (torch.sign(second - largest) + 1) / 2
        second = torch.maximum(largest, second)
    deviation = second.sqrt()
    scale = deviation / root + options["eps"]
    slope = follows * (1 - beta2) * _ratio(gradient, deviation) / root
    derivative: Tensor = rate * ((1 - beta1) - first / scale * slope) / scale
    return derivative


def _rmsprop(gradient: Tensor, state: Options, options: Options) -> Tensor:
    """``u = ξ (μb₀ + g / (s + ε))``; ``s = √v``, or ``√(v - a²)`` where centered."""
    alpha = options["alpha"]
    second = (1 - alpha) * gradient.square() + alpha * _remembered(state, "square_avg", gradient)
    pull = gradient
    if options["centered"]:
        mean = (1 - alpha) * gradient + alpha * _remembered(state, "grad_avg", gradient)
        second, pull = second - mean.square(), gradient - mean
    deviation = second.sqrt()
    scale = deviation + options["eps"]
    slope = (1 - alpha) * _ratio(pull, deviation)
    derivative: Tensor = options["lr"] * (1 - gradient / scale * slope) / scale
    return derivative


_DIAGONALS: Mapping[type[Optimizer], Diagonal] = {
    SGD: _sgd,
    Adam: _adam,
    AdamW: _adam,
    RMSprop: _rmsprop,
}


def _next_count(state: Options) -> Tensor:
    """Return the number of the next step, in float64 so that bias corrections are exact."""
    count = state.get("step", 0.0)
    if not isinstance(count, Tensor):
        return torch.tensor(count + 1.0, dtype=torch.float64)
    return (count if count.device.type == "mps" else count.double()) + 1


def _remembered(state: Options, key: str, gradient: Tensor) -> Tensor:
    found: Tensor = state[key] if key in state else torch.zeros_like(gradient)
    return found


def _ratio(numerator: Tensor, deviation: Tensor) -> Tensor:
    """Return the quotient, 0 where the deviation is 0: what multiplies it vanishes there."""
    flat = deviation == 0
    return torch.where(flat, 0.0, numerator / torch.where(flat, 1.0, deviation))
