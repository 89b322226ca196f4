"""The training loop that every baseline and every retrained expert shares."""

import math
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

import mlo
from mlo.errors import MloError
from mlo_lbg.data.batches import Batch
from mlo_lbg.trainer import ALONE, Trainer

_EPOCHS_A_LINE = 5
"""Epochs from one line of the record to the next."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(index, inputs, targets)` of a batch to a scalar."""


class TrainingError(MloError):
    """Training cannot start with these settings, or diverged."""


class SizedBatches(Iterable[Batch], Sized, Protocol):
    """Batches that can be passed over again and again, with a known number in a pass."""


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """AdamW settings with a cosine decay of the learning rate to 0 over all updates.

    Args:
        learning_rate: At the first update, above 0.
        weight_decay: Decoupled, of all parameters, 0 or more.
        epochs: Passes over the data, at least 1.
        batch_size: Examples in one update, at least 1.

    Raises:
        TrainingError: If a setting is out of range.

    >>> Optimisation(epochs=20).learning_rate
    0.01
    """

    learning_rate: float = 1e-2
    weight_decay: float = 1e-3
    epochs: int = 60
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise TrainingError(
                f"learning_rate: expected a positive number, got {self.learning_rate}"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise TrainingError(f"weight_decay: expected 0 or more, got {self.weight_decay}")
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise TrainingError(f"{name}: expected at least 1, got {value}")


def fit(
    module: nn.Module,
    loss: Loss,
    batches: SizedBatches,
    optimisation: Optimisation,
    *,
    trainer: Trainer = ALONE,
) -> None:
    """Minimise the mean of `loss` over `batches` by AdamW with cosine decay, changing `module`.

    The module is left in evaluation mode.

    Args:
        module: Owns every parameter that is trained.
        loss: Scalar of a batch; closes over `module`.
        batches: Passed over once an epoch.
        optimisation: Learning rate, weight decay and epochs; the batches already have their size.
        trainer: How it is run.

    Raises:
        TrainingError: If a loss or its gradient is not finite.

    References:
        Loshchilov and Hutter (2019), Decoupled weight decay regularization, arXiv 1711.05101.

    >>> weight = nn.Linear(1, 1, bias=False)
    >>> batch = (torch.tensor([0]), torch.ones(1, 1), torch.ones(1, 1))
    >>> fit(weight, lambda index, x, y: (weight(x) - y).square().sum(), [batch],
    ...     Optimisation(epochs=200, learning_rate=0.1, weight_decay=0.0))
    >>> round(weight.weight.item(), 2)
    1.0
    """
    updates = optimisation.epochs * len(batches)

    def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
        index, inputs, targets = batch
        # Batch statistics of a single example are undefined: normalisation layers raise.
        model.train(len(index) > 1)
        return loss(index, inputs, targets)

    problem = mlo.Problem(
        name="model",
        module=module,
        loss=batch_loss,
        batches=batches,
        optimizer=lambda parameters: torch.optim.AdamW(
            parameters,
            lr=optimisation.learning_rate,
            weight_decay=optimisation.weight_decay,
            fused=True,
        ),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=updates),
    )
    try:
        trainer.run(
            mlo.Graph(problem),
            device=next(module.parameters()).device,
            until=updates,
            record_every=_EPOCHS_A_LINE * len(batches),
        )
    except mlo.NonFiniteError as error:
        epoch = -(-error.round // len(batches))
        raise TrainingError(
            f"loss or gradient: expected finite numbers, got others in epoch {epoch} with "
            f"learning_rate {optimisation.learning_rate}; try a smaller one"
        ) from error
    module.eval()
