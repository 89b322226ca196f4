"""Which device to run on, and what can be asked of it for free."""

import torch

from mlo.errors import MloError


def resolve(device: str | torch.device) -> torch.device:
    """Return `device`, or the accelerator if it is ``"auto"`` and there is one, else the CPU.

    Raises:
        MloError: If the device does not exist.

    >>> resolve("cpu")
    device(type='cpu')
    """
    if device != "auto":
        try:
            found = torch.device(device)
            torch.empty(0, device=found)
        # torch reports an unknown, an unusable and an unsupported device in different ways.
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise MloError(
                f"device must be 'auto' or a usable device, got {device!r}: {reason}"
            ) from error
        return found
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def synchronous(device: torch.device) -> bool:
    """Return whether numbers on `device` can be read at no cost, as on a CPU.

    On an accelerator reading one waits for all the work that was queued before it.

    >>> synchronous(torch.device("cpu"))
    True
    """
    return device.type == "cpu"
