"""The networks of an estimator, made by its user's factories and checked before training."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mlo_lbg.architecture import Architecture, MakeModule
from mlo_lbg.models.size import ModelError, num_parameters
from mlo_lbg.seeds import seeded

Factory = Callable[[int, int], nn.Module] | Callable[[tuple[int, ...], int], nn.Module]
"""`(inputs, outputs)` to a network that maps a batch to `(batch, outputs)` logits.

`inputs` is the number of features of a table and the shape of anything else, so `torch.nn.Linear`
is a factory for tables. It is called with torch's global random state seeded.
"""


def architecture(
    expert: Factory | None,
    gate: Factory | None,
    examples: Tensor,
    *,
    num_classes: int,
    num_groups: int,
    seed: int,
) -> Architecture:
    """A gate with `num_groups` outputs and experts with `num_classes`, once each was tried.

    Args:
        expert: Makes an expert; None for a linear one.
        gate: Makes the gate; None for a linear one.
        examples: `(batch, ...)` at least one input to try networks on.
        num_classes: Number of classes.
        num_groups: Number of groups.
        seed: Of the networks that are tried and thrown away.

    Raises:
        ModelError: If a factory does not make a network of the promised outputs.

    >>> built = architecture(nn.Linear, None, torch.zeros(2, 4), num_classes=3, num_groups=2,
    ...                      seed=0)
    >>> built.make_gate(), built.make_expert(), built.budget
    (Linear(in_features=4, out_features=2, bias=True), Linear(in_features=4, out_features=3, \
bias=True), 40)
    """
    make_gate = _made_by(gate, "gate", examples, num_groups)
    make_expert = _made_by(expert, "expert", examples, num_classes)
    with seeded(seed):
        sizes = [
            _tried(make, name, examples, outputs)
            for make, name, outputs in (
                (make_gate, "gate", num_groups),
                (make_expert, "expert", num_classes),
            )
        ]
    return Architecture(
        num_groups=num_groups,
        budget=sizes[0] + num_groups * sizes[1],
        make_gate=make_gate,
        make_expert=make_expert,
        make_network=make_expert,
        make_member=make_expert,
    )


def _made_by(factory: Factory | None, name: str, examples: Tensor, outputs: int) -> MakeModule:
    shape = tuple(examples.shape[1:])
    if factory is None:
        if len(shape) > 1:
            raise ModelError(
                f"{name}: expected a factory of networks for inputs of shape {shape}, got None, "
                f"which is linear and for tables"
            )
        return lambda: nn.Linear(shape[0], outputs)
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ModelError(
            f"{name}: expected a factory, called with inputs and outputs, got "
            f"{type(factory).__name__}"
        )
    # mypy sees a union of callables; which of them it is depends on the data.
    size: int | tuple[int, ...] = shape[0] if len(shape) == 1 else shape
    return lambda: factory(size, outputs)  # type: ignore[arg-type]


def _tried(make: MakeModule, name: str, examples: Tensor, outputs: int) -> int:
    """Return the number of parameters of a network that answers as it should."""
    network = make()
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{name}: expected a factory of torch.nn.Module, got one of {type(network).__name__}"
        )
    network.to(examples.device).eval()
    with torch.no_grad():
        found = network(examples)
    if not isinstance(found, Tensor) or found.shape != (len(examples), outputs):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(
            f"{name}: expected logits of shape {(len(examples), outputs)} from its networks, got "
            f"{shape}"
        )
    return num_parameters(network)
