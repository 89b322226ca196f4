"""Small networks, their size, and the width that meets a parameter budget."""

from torch import nn

from mlo.errors import MloError


class ModelError(MloError):
    """A network cannot be built as asked."""


def linear(inputs: int, outputs: int) -> nn.Module:
    """`x ↦ W x + b` on the last dimension.

    >>> num_parameters(linear(64, 10))
    650
    """
    return nn.Linear(inputs, outputs)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """`x ↦ W₂ relu(W₁ x + b₁) + b₂`: one hidden layer, no normalisation, no dropout.

    >>> num_parameters(mlp(64, 19, 10))
    1435
    """
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def num_parameters(module: nn.Module) -> int:
    """Number of scalars in the parameters, frozen ones included; buffers are not counted.

    >>> num_parameters(nn.Linear(2, 3))
    9
    """
    return sum(parameter.numel() for parameter in module.parameters())


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
