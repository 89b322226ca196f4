"""What records the work of a device, and the CUDA graphs that do it."""

import warnings
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from mlo.errors import MloError


@runtime_checkable
class Capture(Protocol):
    """Records what a function does on a device."""

    def warm_up(self, run: Callable[[], None], /) -> None:
        """Run the function where it will be recorded."""
        ...

    def rehearse(self, run: Callable[[], None], /) -> None:
        """Run the function as `warm_up` does, and raise where it waits for the device.

        Raises:
            RuntimeError: If it does.
        """
        ...

    def record(self, run: Callable[[], None], /) -> Callable[[], None]:
        """Record the function without running it; return what runs the recording.

        Raises:
            RuntimeError: If it cannot be recorded.
        """
        ...


class CudaCapture:
    """Records in a `torch.cuda.CUDAGraph`, on a stream of its own.

    Args:
        device: The CUDA device.

    Raises:
        MloError: If the device is none.

    >>> CudaCapture(torch.device("cpu"))
    Traceback (most recent call last):
        ...
    mlo.errors.MloError: cuda_graph=True captures rounds on a CUDA device, got device 'cpu'
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise MloError(
                f"cuda_graph=True captures rounds on a CUDA device, got device {str(device)!r}"
            )
        self._stream: torch.cuda.Stream = torch.get_device_module(device).Stream(device)

    def warm_up(self, run: Callable[[], None], /) -> None:
        """Run the function on the side stream, after all work queued before and before all later.

        A capture must not begin with what libraries set up lazily at their first call.
        """
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            run()
        current.wait_stream(self._stream)

    def rehearse(self, run: Callable[[], None], /) -> None:
        """Run the function on the side stream with synchronisations made errors.

        Raises:
            RuntimeError: If it waits for the device; nothing is broken by it, unlike in a capture.
        """
        before = torch.cuda.get_sync_debug_mode()
        _set_sync_debug_mode(2)
        try:
            self.warm_up(run)
        finally:
            _set_sync_debug_mode(before)

    def record(self, run: Callable[[], None], /) -> Callable[[], None]:
        """Record the function in a graph with a memory pool of its own.

        Raises:
            RuntimeError: If something in it cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        # Threads of a loader may go on pinning memory; only this one must keep to the rules.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            run()
        launch: Callable[[], None] = graph.replay
        return launch


def _set_sync_debug_mode(mode: int) -> None:
    """Let synchronisations pass (0), warn (1) or raise (2)."""
    with warnings.catch_warnings():
        # torch warns that it does not find all of them; the capture finds the rest.
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode(mode)
