"""Losses in half precision, parameters and solves in full.

Parameters stay in float32. A loss runs under `torch.autocast`, the gradient it gives is float32
again. Finite differences are always taken in full precision: the rounding of half precision is
larger than what they look for.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from mlo.errors import MloError


class LossOverflowError(ArithmeticError):
    """A scaled gradient is not finite, so its update is skipped."""


@dataclass(frozen=True, kw_only=True)
class Autocast:
    """Losses run under `torch.autocast`, on any device.

    With float16, whose smallest number is 6e-8, losses are multiplied by a scale before they are
    differentiated. Where the scaled gradient overflows, the update is skipped, no weight moves, and
    the scale is halved; after `growth_every` updates without overflow it doubles. Looking for an
    overflow waits for the device once an update; bfloat16 needs no scale and never waits.

    Attributes:
        dtype: `torch.bfloat16` or `torch.float16`.
        responses: Whether products by double backward are in half precision too. Only with
            bfloat16, as the scale belongs to the outer loss.
        initial_scale: Where the scale of float16 starts.
        growth_every: Updates without overflow after which it doubles.

    Raises:
        MloError: If a field cannot be right.

    References:
        Micikevicius et al., 2018, arXiv 1710.03740.

    >>> Autocast(dtype=torch.bfloat16).scales
    False
    """

    dtype: torch.dtype = torch.bfloat16
    responses: bool = False
    initial_scale: float = 65536.0
    growth_every: int = 2000

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.dtype not in (torch.bfloat16, torch.float16):
            raise MloError(
                f"autocast: dtype must be torch.bfloat16 or torch.float16, got {self.dtype!r}"
            )
        if self.scales and self.responses:
            raise MloError(
                "autocast: responses=True takes dtype=torch.bfloat16, got torch.float16, in which "
                "second derivatives vanish"
            )
        if not isinstance(self.responses, bool):
            raise MloError(f"autocast: responses must be True or False, got {self.responses!r}")
        if not _is_number(self.initial_scale) or not 1 <= self.initial_scale < math.inf:
            raise MloError(
                f"autocast: initial_scale must be a number >= 1, got {self.initial_scale!r}"
            )
        whole = isinstance(self.growth_every, int) and not isinstance(self.growth_every, bool)
        if not whole or self.growth_every < 1:
            raise MloError(
                f"autocast: growth_every must be an integer >= 1, got {self.growth_every!r}"
            )

    @property
    def scales(self) -> bool:
        """Whether losses are scaled."""
        return self.dtype == torch.float16

    def on(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context that a loss runs in."""
        # A module's tensors are exchanged between two losses, so no cast may outlive one.
        return torch.autocast(device.type, dtype=self.dtype)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class LossScale:
    """What the loss of one problem is multiplied by before it is differentiated.

    Args:
        autocast: Says where it starts, and when it grows.

    Attributes:
        factor: The present scale, a power of 2 times where it started.

    >>> scale = LossScale(Autocast(dtype=torch.float16, initial_scale=8.0, growth_every=2))
    >>> scale.shrink()
    >>> scale.succeeded(), scale.succeeded(), scale.factor
    (None, None, 8.0)
    """

    def __init__(self, autocast: Autocast) -> None:
        self.factor = float(autocast.initial_scale)
        self._growth_every = autocast.growth_every
        self._streak = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether it is so small that what is not finite cannot be an overflow."""
        return self.factor < 1.0

    def shrink(self) -> None:
        """Halve it, after an overflow."""
        self.factor, self._streak = self.factor / 2, 0

    def succeeded(self) -> None:
        """Count an update without overflow."""
        self._streak += 1
        if self._streak >= self._growth_every:
            self.factor, self._streak = min(self.factor * 2, 2.0**100), 0

    def state_dict(self) -> dict[str, float]:
        """Return what `load_state_dict` takes."""
        return {"factor": self.factor, "streak": self._streak}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.factor, self._streak = float(state["factor"]), int(state["streak"])
