"""What of a round is worth a line in its record."""

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer

from mlo.round import Round


def measures_of(done: Round, optimizers: Mapping[str, Optimizer]) -> dict[str, float]:
    """Return losses, learning rates and how each solve went, by name; reading waits for a device.

    ``loss/NAME`` and ``rate/NAME`` of each problem; ``residual/NAME-through-LOWER`` and
    ``status/NAME-through-LOWER`` (a `mlo.Status`) of each solve; ``skipped/NAME`` where an update
    was skipped.

    Args:
        done: The round.
        optimizers: The live optimizer of each problem.

    >>> import torch
    >>> done = Round(number=1, losses={"model": torch.tensor(0.5)}, outcomes={})
    >>> measures_of(done, {"model": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)})
    {'loss/model': 0.5, 'rate/model': 0.1}
    """
    found = {f"loss/{name}": float(loss) for name, loss in done.losses.items()}
    found |= {f"rate/{name}": _rate(optimizers[name]) for name in done.losses}
    for name, outcomes in done.outcomes.items():
        for lower, outcome in outcomes.items():
            residual = float(outcome.relative_residual)
            # One-step responses solve nothing, so there is none.
            if residual == residual:
                found[f"residual/{name}-through-{lower}"] = residual
            found[f"status/{name}-through-{lower}"] = float(outcome.status)
    return found | {f"skipped/{name}": 1.0 for name in done.skipped}


def _rate(optimizer: Optimizer) -> float:
    rate: float | Tensor = optimizer.param_groups[0]["lr"]
    return float(rate)
