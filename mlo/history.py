"""The last updates of a problem, recorded so that they can be made again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mlo.errors import ResponseError
from mlo.optimizer_step import Hyperparameters, OptimizerState, hyperparameters_of, state_of
from mlo.randomness import State, capture
from mlo.tree import Params


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What one update took beside parameters and optimizer state.

    Attributes:
        batch: The batch itself, not a copy.
        random_state: The random generators before the loss was evaluated.
        hyperparameters: The optimizer's, of each parameter, as a schedule had set them.
    """

    batch: Any
    random_state: State
    hyperparameters: Hyperparameters


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """``θ_T = (U_T ∘ ... ∘ U_1)(start, state)``: the last updates of a problem and their start.

    Attributes:
        start: Parameters before the first of the updates, by name.
        state: What the optimizer remembered of each parameter then.
        updates: The updates in their order.
    """

    start: Params
    state: OptimizerState
    updates: tuple[Update, ...]


class Recorder:
    """Keeps the last updates of each block of updates, and one copy of parameters and state.

    A block is the updates of a problem between two updates of the level above. As its length is
    known, the copy is taken once a block, at the first update to be kept, whatever their number.

    Args:
        block: Updates in a block.
        keep: How many of its last updates to keep; all if None or more than there are.

    Raises:
        ResponseError: If either is less than 1.

    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1)
    >>> recorder = Recorder(block=3, keep=2)
    >>> recorder.begin_block()
    >>> for batch in "abc":
    ...     recorder.before_update({"w": weight}, optimizer, batch, torch.device("cpu"))
    >>> [update.batch for update in recorder.history.updates]
    ['b', 'c']
    """

    def __init__(self, *, block: int, keep: int | None = None) -> None:
        for name, value in (("block", block), ("keep", block if keep is None else keep)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ResponseError(f"recorder: {name} must be an integer >= 1, got {value!r}")
        self._kept = block if keep is None else min(keep, block)
        self._skip = block - self._kept
        self._position = 0
        self._start: Params = {}
        self._state: OptimizerState = {}
        self._updates: list[Update] = []

    def begin_block(self) -> None:
        """Count the next update as the first of a block.

        What is recorded stays until the block comes to the updates that replace it.
        """
        self._position = 0

    def before_update(
        self,
        parameters: Mapping[str, Tensor],
        optimizer: Optimizer,
        batch: Any,
        device: torch.device,
    ) -> None:
        """Take down one update, before its loss is evaluated and its parameters move.

        Args:
            parameters: What is trained, by name: the objects that the optimizer holds.
            optimizer: The live optimizer.
            batch: What the loss is about to take.
            device: Whose random generator the loss may draw from, beside those of the CPU.
        """
        position, self._position = self._position, self._position + 1
        if position < self._skip:
            return
        # A block that is longer than announced must not grow without bound.
        if position == self._skip or len(self._updates) == self._kept:
            self._start = {name: p.detach().clone() for name, p in parameters.items()}
            self._state = state_of(optimizer, parameters)
            self._updates = []
        self._updates.append(
            Update(
                batch=batch,
                random_state=capture(device),
                hyperparameters=hyperparameters_of(optimizer, parameters),
            )
        )

    def withdraw(self) -> None:
        """Forget the update that was last taken down: it has not been made after all."""
        if self._position > self._skip and self._updates:
            # The start stays, as nothing has moved since.
            self._updates.pop()

    @property
    def history(self) -> History | None:
        """The recorded updates, or None before the first."""
        if not self._updates:
            return None
        return History(start=self._start, state=self._state, updates=tuple(self._updates))
