"""The state of every random generator that a loss may draw from."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
State = tuple[Any, Any, Tensor, Tensor | None]


def capture(device: torch.device) -> State:
    """Return the state of Python's, NumPy's and torch's generators, on `device` too."""
    on_device = None
    if device.type != "cpu":
        on_device = torch.get_device_module(device).get_rng_state(device)
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_device


def restore(state: State, device: torch.device) -> None:
    """Set the generators to a state that `capture` returned.

    >>> cpu = torch.device("cpu")
    >>> state = capture(cpu)
    >>> first = torch.rand(())
    >>> restore(state, cpu)
    >>> bool(first == torch.rand(()))
    True
    """
    python, numpy, torch_cpu, on_device = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torch_cpu)
    if on_device is not None:
        torch.get_device_module(device).set_rng_state(on_device, device)


def replayed(function: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """Return `function` with the same random numbers at every call.

    The first call draws from the generators as they are and advances them; later calls draw the
    same numbers again and leave the generators where they were. So a dropout mask is shared by
    both sides of a finite difference, and the generators move as if the loss ran once. A generator
    of the user's own that a loss passes explicitly is not known here and draws anew each time.

    >>> draw = replayed(lambda: torch.rand(()), torch.device("cpu"))
    >>> bool(draw() == draw())
    True
    """
    first: list[State] = []

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not first:
            first.append(capture(device))
            return function(*args, **kwargs)
        with _at(first[0], device):
            return function(*args, **kwargs)

    return call


@contextmanager
def unchanged(device: torch.device) -> Iterator[None]:
    """Leave all generators as they were before.

    >>> cpu = torch.device("cpu")
    >>> before = torch.get_rng_state()
    >>> with unchanged(cpu):
    ...     _ = torch.rand(())
    >>> bool(torch.equal(before, torch.get_rng_state()))
    True
    """
    now = capture(device)
    try:
        yield
    finally:
        restore(now, device)


@contextmanager
def _at(state: State, device: torch.device) -> Iterator[None]:
    with unchanged(device):
        restore(state, device)
        yield
