"""Whether updates were finite, looked at once in a while so that no update waits for a device."""

from typing import NamedTuple

import torch
from torch import Tensor

from mlo.errors import NonFiniteError

_ENOUGH = 1000


class _Flag(NamedTuple):
    problem: str
    round: int
    usable: Tensor


class Flags:
    """0-dim bool tensors on a device, one for each update, read together.

    >>> flags = Flags()
    >>> flags.add("model", 3, torch.tensor(False))
    >>> flags.read()
    Traceback (most recent call last):
        ...
    mlo.errors.NonFiniteError: problem 'model', round 3: its loss or gradient is not finite; the \
update was replaced by a zero gradient. Lower its learning rate or look at its batch
    """

    def __init__(self) -> None:
        self._unread: list[_Flag] = []

    def add(self, problem: str, round: int, usable: Tensor) -> None:
        """Keep a flag for later."""
        self._unread.append(_Flag(problem, round, usable))

    def read_some(self) -> None:
        """Read the flags if there are many; see `read`."""
        if len(self._unread) > _ENOUGH:
            self.read()

    def read(self) -> None:
        """Wait for the device and look at every flag.

        Raises:
            NonFiniteError: If an update was not finite.
        """
        unread, self._unread = self._unread, []
        if not unread or torch.stack([flag.usable for flag in unread]).all():
            return
        problem, number, _ = next(flag for flag in unread if not flag.usable)
        raise NonFiniteError(
            f"problem {problem!r}, round {number}: its loss or gradient is not finite; the update "
            "was replaced by a zero gradient. Lower its learning rate or look at its batch",
            problem=problem,
            round=number,
        )

    def clear(self) -> None:
        """Forget all flags."""
        self._unread.clear()
