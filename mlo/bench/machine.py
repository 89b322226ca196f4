"""On what a measurement was made: machine, versions, commit."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

DISTRIBUTIONS = ("mlo-framework", "betty-ml", "torchopt")
"""Whose versions are recorded, beside those of Python and torch."""


def machine(device: torch.device) -> dict[str, object]:
    """Return processor, cores, threads of torch and, on CUDA, the card.

    >>> sorted(machine(torch.device("cpu")))
    ['cores', 'cpu', 'device', 'gpu', 'system', 'threads']
    """
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "gpu": gpu,
    }


def versions() -> dict[str, str | None]:
    """Return the versions of Python, torch, `mlo` and its peers; None if not installed.

    >>> versions()["torch"] is None
    False
    """
    # The metadata of torch do not say for which accelerator it was built.
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return found | {name: _version(name) for name in DISTRIBUTIONS}


def commit() -> str | None:
    """Return the commit that is checked out where `mlo` lies, or None if it is no checkout.

    Changes that are not committed do not show.
    """
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        loose = git / reference
        if loose.is_file():
            return loose.read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {reference}")), None)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the model of the CPU, as exactly as the system tells."""
    description = Path("/proc/cpuinfo")
    if description.is_file():
        for line in description.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
