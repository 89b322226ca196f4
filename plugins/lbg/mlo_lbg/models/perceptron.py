"""Multilayer perceptrons, and the widths that meet a parameter budget."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from mlo_lbg.models.size import ModelError, nearest_width


def linear(inputs: int, outputs: int) -> nn.Module:
    """`x ↦ W x + b` on the last dimension.

    >>> linear(64, 10)
    Linear(in_features=64, out_features=10, bias=True)
    """
    return nn.Linear(inputs, outputs)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """`x ↦ W₂ relu(W₁ x + b₁) + b₂`: one hidden layer, no normalisation, no dropout.

    >>> len(mlp(64, 19, 10))
    3
    """
    return perceptron(inputs, (hidden,), outputs)


def perceptron(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """`x ↦ W_L relu(… relu(W₁ x + b₁) …) + b_L`: no normalisation, no dropout.

    Args:
        inputs: Number of input features.
        hidden: Width of each hidden layer; none of them makes the map linear.
        outputs: Number of outputs.

    >>> perceptron(4, (3, 2), 1)
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=2, bias=True)
      (3): ReLU()
      (4): Linear(in_features=2, out_features=1, bias=True)
    )
    """
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *hidden)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else inputs, outputs))


def perceptron_size(inputs: int, hidden: Sequence[int], outputs: int) -> int:
    """`Σ_l (w_l + 1) w_{l+1}` over the widths `inputs, *hidden, outputs`.

    >>> perceptron_size(64, (19,), 10), perceptron_size(4, (3, 2), 1)
    (1435, 26)
    """
    return sum((before + 1) * after for before, after in pairwise((inputs, *hidden, outputs)))


def scaled_to(shape: Sequence[int], widest: int) -> tuple[int, ...]:
    """Widths in the proportions of `shape`, the widest of them `widest`, none below 1.

    >>> scaled_to((128, 64, 1), 10)
    (10, 5, 1)
    """
    return tuple(max(1, round(widest * width / max(shape))) for width in shape)


def budget_widths(
    inputs: int, outputs: int, *, shape: Sequence[int], budget: int, tolerance: float = 0.1
) -> tuple[int, ...]:
    """Hidden widths in the proportions of `shape` whose perceptron is nearest to the budget.

    Args:
        inputs: Number of input features.
        outputs: Number of outputs.
        shape: Relative width of each hidden layer, at least one.
        budget: Wanted number of parameters.
        tolerance: Largest allowed relative distance from the budget.

    Raises:
        ModelError: If the shape is empty or not positive, or no widths come within the tolerance.

    >>> widths = budget_widths(100, 2, shape=(2, 1), budget=3740)
    >>> widths, perceptron_size(100, widths, 2)
    ((32, 16), 3794)
    """
    if not shape or min(shape) < 1:
        raise ModelError(f"hidden: expected widths of at least 1, got {tuple(shape)}")
    widest = nearest_width(
        lambda width: perceptron_size(inputs, scaled_to(shape, width), outputs), budget
    )
    widths = scaled_to(shape, widest)
    size = perceptron_size(inputs, widths, outputs)
    if abs(size - budget) > tolerance * budget:
        raise ModelError(
            f"budget: expected a size that a perceptron from {inputs} to {outputs} with hidden "
            f"layers like {tuple(shape)} reaches within {tolerance:.0%}, got {budget}; "
            f"the nearest is {size} with {widths}"
        )
    return widths


def budget_hidden(inputs: int, outputs: int, *, budget: int, tolerance: float = 0.1) -> int:
    """Hidden width h for which `mlp(inputs, h, outputs)` is nearest in size to the budget.

    The size is `h (inputs + outputs + 1) + outputs`.

    Args:
        inputs: Number of input features.
        outputs: Number of outputs.
        budget: Wanted number of parameters.
        tolerance: Largest allowed relative distance from the budget.

    Raises:
        ModelError: If no width comes within the tolerance.

    >>> budget_hidden(64, 10, budget=1430), budget_hidden(64, 10, budget=1430 // 2)
    (19, 9)
    """
    per_unit = inputs + outputs + 1
    hidden = max(1, round((budget - outputs) / per_unit))
    size = hidden * per_unit + outputs
    if abs(size - budget) > tolerance * budget:
        raise ModelError(
            f"budget: expected a size that an MLP {inputs}-h-{outputs} reaches within "
            f"{tolerance:.0%}, got {budget}; the nearest is {size} with h = {hidden}"
        )
    return hidden
