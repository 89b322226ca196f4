"""A problem's loss as a pure function of named parameters."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mlo.errors import ProblemError
from mlo.parallel.sharded import Sharded
from mlo.parallel.sharded_state import whole
from mlo.precision import Autocast
from mlo.problem import Loss
from mlo.separable import LossValue, Separability, Weighted, scalar
from mlo.tree import Params

Slot = tuple[dict[str, Any], str]
"""Where a module keeps a tensor: one of its dictionaries, and the key in it."""


class PureLoss:
    """``{problem: Params}, batch -> loss``: parameters go in by name, nothing changes outside.

    For the time of a call the parameters of every module that the loss reads are exchanged, and
    put back whatever happens. Parameters that are not given keep their values. Buffers are copied
    for each call, so that the running statistics of a BatchNorm in train mode do not move.

    Args:
        problem: Name of the problem, for error messages.
        loss: The user's loss.
        modules: The modules it reads, by problem name.
        takes_batch: Whether it takes a batch.
        requires_batch: Whether it cannot do without one.

    Attributes:
        returns_weighted: Whether the loss is separable; None before its first call.
        separability: Whether its forward-mode derivative can be trusted.
        sharded: The parameters of its modules that `fully_shard` has sharded.
        compiled: The same loss compiled, for callers that differentiate it once and backwards;
            None if there is none.
        autocast: In which precision it runs, unless it is asked for in full; None for full.
    """

    def __init__(
        self,
        problem: str,
        loss: Loss,
        modules: Mapping[str, nn.Module],
        *,
        takes_batch: bool,
        requires_batch: bool = True,
    ) -> None:
        self._problem = problem
        self._loss = loss
        self._modules = dict(modules)
        self._takes_batch = takes_batch
        self._requires_batch = requires_batch
        # Walking modules at every call costs more than a small loss.
        self._slots = {name: _parameter_slots(module) for name, module in modules.items()}
        self._buffers = {name: buffer_slots(module) for name, module in modules.items()}
        self.sharded = Sharded(self._modules.values())
        self.returns_weighted: bool | None = None
        self.separability = Separability()
        self.compiled: Loss | None = None
        self.autocast: Autocast | None = None

    def check_parameters(self, name: str, parameters: Mapping[str, Tensor]) -> None:
        """Refuse a module in which another parameter has taken the place of the trained one.

        Raises:
            ProblemError: If there is one; what an optimizer holds would move unseen.
        """
        self.sharded.let_go()
        for key, slots in self._slots.get(name, {}).items():
            trained = parameters.get(key)
            if trained is not None and any(owner[at] is not trained for owner, at in slots):
                raise ProblemError(
                    f"problem {name!r}: parameter {key!r} was replaced by another tensor after the "
                    "engine was made, so its optimizer would move one that the loss does not read; "
                    "copy into it instead, or make a new engine"
                )

    def __call__(
        self, params: Mapping[str, Params], batch: Any, *, moves: str | None = None
    ) -> Tensor:
        """Return the loss, a 0-dim tensor; see `value`."""
        return scalar(self.value(params, batch, moves=moves))

    def value(
        self,
        params: Mapping[str, Params],
        batch: Any,
        *,
        moves: str | None = None,
        first_order: bool = False,
        full_precision: bool = False,
    ) -> LossValue:
        """Return what the loss returns at these parameters.

        Args:
            params: Parameters by problem and name.
            batch: What the loss is evaluated on.
            moves: The problem whose buffers do move, because it is the one being updated.
            first_order: Whether the caller differentiates it once and backwards only, so that the
                compiled loss will do.
            full_precision: Whether `autocast` is left aside.

        Raises:
            ProblemError: If the loss is neither a 0-dim tensor nor `mlo.weighted`.
        """
        # A loss whose batch has a default is called without where there is none.
        has_batch = self._takes_batch and (batch is not None or self._requires_batch)
        batches = {"batch": batch} if has_batch else {}
        replaced: list[tuple[dict[str, Any], str, Any]] = []
        sharded = self.sharded if self.sharded else None
        if sharded is not None:
            sharded.let_go()
        try:
            for problem, tensors in params.items():
                slots = self._slots.get(problem)
                if slots is None:
                    continue
                for name, tensor in tensors.items():
                    for owner, key in slots[name]:
                        if sharded is not None and sharded.keeps(owner[key], tensor, name):
                            continue
                        replaced.append((owner, key, owner[key]))
                        owner[key] = tensor
            moving = {(id(o), k) for o, k in self._buffers.get(moves or "", ())}
            for problem, buffers in self._buffers.items():
                if problem == moves:
                    continue
                for owner, key in buffers:
                    if (id(owner), key) in moving:
                        continue
                    buffer = owner[key]
                    replaced.append((owner, key, buffer))
                    owner[key] = buffer.clone()
            chosen = self.compiled if first_order and self.compiled is not None else self._loss
            with self.casting(full_precision=full_precision):
                loss = chosen(**self._modules, **batches)
        finally:
            for owner, key, tensor in reversed(replaced):
                owner[key] = tensor
        self.returns_weighted = isinstance(loss, Weighted)
        return checked(loss, self._problem)

    def casting(self, *, full_precision: bool = False) -> AbstractContextManager[Any]:
        """Return the context that the loss runs in."""
        if self.autocast is None or full_precision:
            return nullcontext()
        return self.autocast.on(self._device())

    def _device(self) -> torch.device:
        module = next(iter(self._modules.values()))
        return next(module.parameters()).device


def _parameter_slots(module: nn.Module) -> dict[str, list[Slot]]:
    """Return where every parameter is kept, a tied one in more than one place."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    slots: dict[str, list[Slot]] = {name: [] for name in names.values()}
    for part in module.modules():
        for key, parameter in part._parameters.items():
            if parameter is not None:
                slots[names[id(parameter)]].append((part._parameters, key))
    return slots


def buffer_slots(module: nn.Module) -> list[Slot]:
    """Return where every buffer is kept, as a module may put another tensor in its place.

    >>> [key for _, key in buffer_slots(nn.BatchNorm1d(2))]
    ['running_mean', 'running_var', 'num_batches_tracked']
    """
    return [
        (part._buffers, key)
        for part in module.modules()
        for key, buffer in part._buffers.items()
        if buffer is not None
    ]


def checked(loss: object, problem: str) -> LossValue:
    """Return `loss` if it is a 0-dim tensor or `mlo.weighted`.

    Raises:
        ProblemError: If it is not.
    """
    if isinstance(loss, Weighted):
        if loss.rest is not None and loss.rest.dim() != 0:
            raise ProblemError(
                f"problem {problem!r}: what is added to mlo.weighted must be a 0-dim tensor, got "
                f"shape {tuple(loss.rest.shape)}; reduce it, for example with .sum()"
            )
        return loss
    if isinstance(loss, Tensor):
        # A penalty on sharded parameters makes a DTensor of the loss.
        loss = whole(loss)
    else:
        raise ProblemError(
            f"problem {problem!r}: its loss must return a 0-dim tensor or mlo.weighted(losses, "
            f"weights), got {type(loss).__name__}"
        )
    if loss.dim() != 0:
        raise ProblemError(
            f"problem {problem!r}: its loss must return a 0-dim tensor, got shape "
            f"{tuple(loss.shape)}; reduce it, for example with .mean()"
        )
    return loss
