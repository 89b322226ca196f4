"""A problem's loss as a pure function of named parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mlo.errors import ProblemError
from mlo.problem import Loss
from mlo.tree import Params


class PureLoss:
    """``{problem: Params}, batch -> loss``: parameters go in by name, nothing changes outside.

    One `torch.func.functional_call` swaps the parameters of every module that the loss reads.
    Parameters that are not given keep their values. Buffers are copied for each call, so that
    the running statistics of a BatchNorm in train mode do not move.

    Args:
        problem: Name of the problem, for error messages.
        loss: The user's loss.
        modules: The modules it reads, by problem name.
        takes_batch: Whether it takes a batch.
        requires_batch: Whether it cannot do without one.
        moves: The problem whose buffers do move, because it is the one being updated.
    """

    def __init__(
        self,
        problem: str,
        loss: Loss,
        modules: Mapping[str, nn.Module],
        *,
        takes_batch: bool,
        requires_batch: bool = True,
        moves: str | None = None,
    ) -> None:
        self._problem = problem
        self._takes_batch = takes_batch
        self._requires_batch = requires_batch
        self._call = _Call(loss, modules)
        # Looking for tied weights at every call costs more than the swap itself.
        distinct = len(list(self._call.parameters()))
        self._is_tied = len(list(self._call.named_parameters(remove_duplicate=False))) > distinct
        moving = f"{self._call.prefix[moves]}." if moves in self._call.prefix else None
        self._held = [
            name
            for name, _ in self._call.named_buffers()
            if not (moving and name.startswith(moving))
        ]

    def __call__(self, params: Mapping[str, Params], batch: Any) -> Tensor:
        """Return the loss, a 0-dim tensor, at these parameters.

        Raises:
            ProblemError: If the loss is not a 0-dim tensor.
        """
        swapped: dict[str, Tensor] = {
            f"{self._call.prefix[problem]}.{name}": tensor
            for problem, tensors in params.items()
            if problem in self._call.prefix
            for name, tensor in tensors.items()
        }
        for name in self._held:
            swapped[name] = self._call.get_buffer(name).clone()
        # A loss whose batch has a default is called without where there is none.
        has_batch = self._takes_batch and (batch is not None or self._requires_batch)
        batches = {"batch": batch} if has_batch else {}
        loss = torch.func.functional_call(
            self._call, swapped, kwargs=batches, tie_weights=self._is_tied
        )
        return checked(loss, self._problem)


class _Call(nn.Module):
    """Holds the modules that a loss reads, so that one call swaps the parameters of all."""

    def __init__(self, loss: Loss, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._loss = loss
        # Problem names may clash with attributes of nn.Module; positions do not.
        self.prefix = {name: f"m{position}" for position, name in enumerate(modules)}
        for name, module in modules.items():
            self.add_module(self.prefix[name], module)

    def forward(self, **batch: Any) -> Tensor:
        modules = {name: self.get_submodule(prefix) for name, prefix in self.prefix.items()}
        loss: Tensor = self._loss(**modules, **batch)
        return loss


def checked(loss: object, problem: str) -> Tensor:
    """Return `loss` if it is a 0-dim tensor.

    Raises:
        ProblemError: If it is not.
    """
    if not isinstance(loss, Tensor):
        raise ProblemError(
            f"problem {problem!r}: its loss must return a 0-dim tensor, got {type(loss).__name__}"
        )
    if loss.dim() != 0:
        raise ProblemError(
            f"problem {problem!r}: its loss must return a 0-dim tensor, got shape "
            f"{tuple(loss.shape)}; reduce it, for example with .mean()"
        )
    return loss
