"""What is compared: several builds of one program that take the same steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from mlo.bench.programs import BenchmarkError


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """A program that is ready to run.

    Attributes:
        lower: One update of the lower problem.
        upper: One update of the upper problem: data, forward, hypergradient, optimizer.
        optimizer: Of the upper problem; what it is about to apply is the hypergradient.
    """

    lower: Callable[[], object]
    upper: Callable[[], object]
    optimizer: Optimizer

    def round(self) -> None:
        """Make one update of each."""
        self.lower()
        self.upper()


def gradient_of_round(steps: Steps) -> list[Tensor]:
    """Run a round and return the gradient that the upper optimizer applied."""
    seen: list[Tensor] = []

    def look(optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        for group in optimizer.param_groups:
            seen.extend(_dense(p.grad) for p in group["params"] if p.grad is not None)

    handle = steps.optimizer.register_step_pre_hook(look)
    try:
        steps.round()
    finally:
        handle.remove()
    return seen


def disagreement(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return ``‖found - expected‖ / ‖expected‖`` over all tensors together.

    >>> disagreement([torch.tensor([3.0, 4.1])], [torch.tensor([3.0, 4.0])])  # doctest: +ELLIPSIS
    0.0199...

    Raises:
        BenchmarkError: If they have different shapes or `expected` is zero.
    """
    if [t.shape for t in found] != [t.shape for t in expected] or not expected:
        raise BenchmarkError(
            f"gradients have shapes {[tuple(t.shape) for t in found]}, expected "
            f"{[tuple(t.shape) for t in expected]}"
        )
    difference = _length([a - b for a, b in zip(found, expected, strict=True)])
    length = _length(expected)
    if length == 0:
        raise BenchmarkError("the gradient to compare with is zero, so nothing would be compared")
    return difference / length


def check_equal(
    label: str, gradients: Mapping[str, list[Tensor]], baseline: str, tolerance: float
) -> dict[str, float]:
    """Return the disagreement of each variant with the baseline, none above `tolerance`.

    Raises:
        BenchmarkError: If one is: then the variants do not do the same work.
    """
    found = {
        name: disagreement(gradient, gradients[baseline])
        for name, gradient in gradients.items()
        if name != baseline
    }
    for name, distance in found.items():
        if not distance <= tolerance:
            raise BenchmarkError(
                f"{label}: the hypergradient of {name!r} differs from that of {baseline!r} by "
                f"{distance:.2g} of its norm, expected at most {tolerance:.2g}; nothing was timed"
            )
    return found


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient.detach().clone()


def _length(vector: list[Tensor]) -> float:
    return float(torch.cat([t.double().reshape(-1) for t in vector]).norm())
