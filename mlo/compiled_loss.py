"""Compiled losses, wherever a loss is differentiated once and backwards.

`torch.compile` makes functions that have no second derivative and no forward-mode derivative. So
plain updates, first hops and finite differences of gradients call the compiled loss; double
backward, Hessian products by autograd and the forward-mode pass of a separable loss call the
user's own.
"""

from collections.abc import Callable, Collection, Mapping

import torch

from mlo.errors import MloError
from mlo.functional import PureLoss
from mlo.problem import Loss, Problem

Compile = Callable[[Loss], Loss]
"""Such as `torch.compile`, or a `functools.partial` of it with options."""


def compiler_of(option: bool | Compile) -> Compile | None:
    """Return what compiles losses: `torch.compile` for True, None for False.

    Raises:
        MloError: If it is neither a bool nor a function.

    >>> compiler_of(False) is None, compiler_of(True) is torch.compile
    (True, True)
    """
    if isinstance(option, bool):
        return torch.compile if option else None
    if not callable(option):
        raise MloError(
            "compiled must be a bool or a function of a loss such as functools.partial("
            f"torch.compile, dynamic=True), got {option!r} ({type(option).__name__})"
        )
    return option


def compile_losses(
    problems: Mapping[str, Problem],
    losses: Mapping[str, PureLoss],
    compiler: Compile,
    *,
    but: Collection[str] = (),
) -> None:
    """Give every pure loss its compiled twin, which is made when it is first called.

    Args:
        problems: The problems by name.
        losses: Their pure losses, likewise.
        compiler: Makes a compiled loss of a loss.
        but: Problems whose losses stay as they are, such as those whose updates are made again by
            double backward: a compiled loss may draw other random numbers.

    Raises:
        MloError: If the compiler gives no function.
    """
    for name, pure in losses.items():
        if name in but:
            continue
        made = compiler(problems[name].loss)
        if not callable(made):
            raise MloError(
                f"problem {name!r}: compiled must give a function with the signature of its loss, "
                f"got {type(made).__name__}"
            )
        pure.compiled = made
