"""Peak memory of an action above what stays resident, measured in a process of its own."""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import torch

from mlo.device import synchronous

P = ParamSpec("P")
R = TypeVar("R")

MIB: Final = 2**20
_STATUS: Final = Path("/proc/self/status")
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"
_MMAP_THRESHOLD: Final = -3
_THRESHOLD_BYTES: Final = 2**16


def in_new_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return ``function(*args)`` as a new process computes it.

    So no variant is charged for what another one left in the allocator. `function` and its
    arguments must be picklable.
    """
    # Forking a server that has imported what takes seconds, and done nothing else, saves them.
    is_forking = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if is_forking else "spawn")
    # The first step of an optimizer imports torch._dynamo.
    context.set_forkserver_preload([function.__module__, "torch._dynamo"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def extra_peak(
    action: Callable[[], object], device: torch.device, *, warmup: int = 2
) -> int | None:
    """Return the bytes that one call needs at its peak beyond what is resident before and after.

    On CUDA they come from the allocator; on a CPU from the kernel's high-water mark, which exists
    on Linux only: elsewhere None. To be called in a process of its own.
    """
    if not synchronous(device):
        return _extra_peak_of_cuda(action, device, warmup) if device.type == "cuda" else None
    if not _CLEAR_REFS.exists():
        return None
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # What is freed is given back at once, so that it cannot hide a peak.
        libc.mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES)
    for _ in range(warmup):
        action()
    gc.collect()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    resident = _status("VmRSS")
    _CLEAR_REFS.write_text(_RESET_PEAK)
    action()
    return max(0, _status("VmHWM") - resident)


def _extra_peak_of_cuda(action: Callable[[], object], device: torch.device, warmup: int) -> int:
    for _ in range(warmup):
        action()
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    resident = torch.cuda.memory_allocated(device)
    action()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - resident


def _status(field: str) -> int:
    """Return a field of this process's status in bytes; the kernel counts in KiB."""
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{_STATUS} has no field {field!r}")
