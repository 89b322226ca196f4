"""Optimizers of torch in many settings, and parameters to train with them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

Make = Callable[[Sequence[nn.Parameter]], Optimizer]

CLOSED: Mapping[str, Make] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "sgd, weight decay": lambda p: SGD(p, lr=0.1, weight_decay=0.3),
    "sgd, maximizing": lambda p: SGD(p, lr=0.1, weight_decay=0.3, maximize=True),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "momentum, damped": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.4, weight_decay=0.1),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, maximize=True),
    "adam": lambda p: Adam(p, lr=0.01),
    "adam, weight decay": lambda p: Adam(p, lr=0.01, weight_decay=0.2, betas=(0.7, 0.9)),
    "adam, maximizing": lambda p: Adam(p, lr=0.01, weight_decay=0.2, maximize=True, eps=1e-3),
    "amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True, betas=(0.5, 0.6)),
    "adam, rate a tensor": lambda p: Adam(p, lr=torch.tensor(0.01).double()),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.3),
    "adamw, amsgrad": lambda p: AdamW(p, lr=0.01, amsgrad=True, maximize=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.01),
    "rmsprop, momentum": lambda p: RMSprop(p, lr=0.01, momentum=0.8, weight_decay=0.2, alpha=0.9),
    "rmsprop, centered": lambda p: RMSprop(p, lr=0.01, centered=True, alpha=0.8),
    "rmsprop, both": lambda p: RMSprop(p, lr=0.01, centered=True, momentum=0.8, maximize=True),
}
OTHERS: Mapping[str, Make] = {
    "adadelta": lambda p: Adadelta(p, lr=0.5, weight_decay=0.1),
    "adagrad": lambda p: Adagrad(p, lr=0.1, lr_decay=0.1),
    "adamax": lambda p: Adamax(p, lr=0.01),
    "asgd": lambda p: ASGD(p, lr=0.1),
    "nadam": lambda p: NAdam(p, lr=0.01, weight_decay=0.1),
    "radam": lambda p: RAdam(p, lr=0.01),
}
DIFFERENTIABLE = {**CLOSED, **OTHERS}
SHAPES = ((3, 2), (), (4,))


def random_parameters(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    """Return three parameters of different shapes by name."""
    return {n: nn.Parameter(t) for n, t in random_vector(seed, dtype).items()}


def random_vector(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Return three tensors of different shapes by name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"p{k}": torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for k, shape in enumerate(SHAPES)
    }


def train(
    parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, steps: int, seed: int = 1
) -> None:
    """Make real steps with random gradients; the first entry of each gradient is always zero."""
    for position in range(steps):
        real_step(parameters, optimizer, gradient(parameters, seed + position))


def gradient(parameters: Mapping[str, nn.Parameter], seed: int) -> dict[str, Tensor]:
    """Return a random gradient; the first entry of each tensor with several is zero."""
    found = random_vector(seed, next(iter(parameters.values())).dtype)
    for tensor in found.values():
        if tensor.dim():
            tensor.view(-1)[0] = 0.0
    return found


def real_step(
    parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, given: Mapping[str, Tensor]
) -> None:
    """Let the optimizer step with the given gradient."""
    for name, parameter in parameters.items():
        parameter.grad = given[name].clone() if name in given else None
    optimizer.step()
    optimizer.zero_grad()


def deeply_copied(
    parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, make: Make
) -> tuple[dict[str, nn.Parameter], Optimizer]:
    """Return an optimizer in the same state over copies of the parameters."""
    copies = {n: nn.Parameter(p.detach().clone()) for n, p in parameters.items()}
    other = make(list(copies.values()))
    for mine, group in zip(other.param_groups, optimizer.param_groups, strict=True):
        mine.update({k: v for k, v in group.items() if k != "params"})
    for name, parameter in parameters.items():
        if parameter in optimizer.state:
            other.state[copies[name]] = {
                k: v.clone() if isinstance(v, Tensor) else v
                for k, v in optimizer.state[parameter].items()
            }
    return copies, other


def measured_derivative(
    parameters: Mapping[str, nn.Parameter],
    optimizer: Optimizer,
    make: Make,
    at: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    radius: float = 1e-6,
) -> dict[str, Tensor]:
    """Return the change of the real next update along a direction of the gradient.

    Central differences of two real steps, in which no differentiable mode takes part.
    """
    ends = []
    for side in (radius, -radius):
        copies, other = deeply_copied(parameters, optimizer, make)
        real_step(copies, other, {n: at[n] + side * direction[n] for n in at})
        ends.append({n: p.detach() for n, p in copies.items()})
    return {n: (ends[0][n] - ends[1][n]) / (2 * radius) for n in parameters}
