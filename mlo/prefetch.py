"""The next batch on its way to the device while the device works on the last one.

What this gains has not been measured.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mlo.batch import mapped, to_device
from mlo.errors import BatchError
from mlo.shares import Share


class Copying(Protocol):
    """A batch that is being copied."""

    @property
    def moves(self) -> bool:
        """Whether there is anything to copy."""
        ...

    def arrived(self) -> Any:
        """Return the batch on the device, for the work that is queued from now on."""
        ...


Copy = Callable[[Any], Copying]
"""Begins to copy a batch to the device."""


class Waiting(NamedTuple):
    """A batch that has been loaded and not been handed out.

    Attributes:
        mark: Where the loader stood.
        share: The batch on the host, and what multiplies its loss.
        copying: Its way to the device, if that has been begun.
        error: Why there is no batch.
    """

    mark: Any
    share: Share | None = None
    copying: Copying | None = None
    error: BatchError | None = None


class Loads(Protocol):
    """What batches are asked for, as `mlo.epochs.Epochs`."""

    @property
    def mark(self) -> Any:
        """Where it stood before the last batch, and anything else to go with that."""
        ...

    def next(self, *, keep: bool) -> Share:
        """Return the next batch and its weight.

        Args:
            keep: Whether `mark` must be true of this batch.
        """
        ...


class Prefetch:
    """Hands out batches in their order; the next one is loaded and being copied by then.

    A batch that cannot be loaded ahead of time raises when its turn comes. Where there is nothing
    to copy, as for data that live on the device, nothing is loaded ahead of time.

    Args:
        device: Where batches go.
        copy: Begins to copy a batch; None to load nothing ahead of time.

    Attributes:
        waiting: What has been loaded ahead of time.
    """

    # What is loaded from is not kept: in a circle of references it would outlive its last use, and
    # with it its worker processes.

    def __init__(self, device: torch.device, copy: Copy | None) -> None:
        self.waiting: Waiting | None = None
        self._device = device
        self._copy = copy
        self._moves = False

    def next(self, loads: Loads) -> tuple[Any, float, Any]:
        """Return the next batch on the device, its weight and its mark.

        Raises:
            BatchError: If it could not be loaded.
        """
        if self._copy is None and self.waiting is None:
            batch, weight = loads.next(keep=False)
            return to_device(batch, self._device), weight, loads.mark
        waiting = self.waiting or self._asked(loads)
        self.waiting = None
        if waiting.error is not None:
            try:
                raise waiting.error
            finally:
                # Nor may an error refer to itself by this frame.
                del waiting
        assert waiting.share is not None
        if waiting.copying is None:
            return to_device(waiting.share[0], self._device), waiting.share[1], waiting.mark
        self._moves = waiting.copying.moves
        if self._moves:
            try:
                self.fill(loads)
            except BaseException:
                # Interrupted: the batch in hand is not lost.
                self.waiting = waiting
                raise
        return waiting.copying.arrived(), waiting.share[1], waiting.mark

    def fill(self, loads: Loads) -> None:
        """Load the next batch, or find out why that cannot be, if that has not been done yet."""
        if self.waiting is None:
            try:
                self.waiting = self._asked(loads)
            except BatchError as error:
                self.waiting = Waiting(mark=loads.mark, error=error)

    def _asked(self, loads: Loads) -> Waiting:
        share = loads.next(keep=self._moves)
        copying = None if self._copy is None else self._copy(share[0])
        return Waiting(mark=loads.mark, share=share, copying=copying)


def copier(device: torch.device) -> Copy | None:
    """Return what copies batches by a stream of its own, or None if the device has no streams.

    >>> copier(torch.device("cpu"))
    """
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or accelerator.type != device.type or device.type == "mps":
        return None
    return SideStream(device)


class Here:
    """A batch that is where it is wanted."""

    moves = False

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def arrived(self) -> Any:
        """Return the batch."""
        return self._batch


class SideStream:
    """Copies batches by a stream of its own, from pinned memory, so that no work waits for it.

    Args:
        device: An accelerator that has streams.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.Stream(device)

    def __call__(self, batch: Any) -> Copying:
        """Begin to copy a batch; everything in it that is on the device already stays."""
        if not any(tensor.device.type == "cpu" for tensor in tensors_of(batch)):
            return Here(batch)
        with self._stream:
            sent = _sent(batch, self._device)
        return _Sent(sent, self._device, self._stream.record_event())


class _Sent:
    moves = True

    def __init__(self, batch: Any, device: torch.device, event: torch.Event) -> None:
        self._batch = batch
        self._device = device
        self._event = event

    def arrived(self) -> Any:
        stream = torch.accelerator.current_stream(self._device)
        stream.wait_event(self._event)
        for tensor in tensors_of(self._batch):
            if tensor.device.type == self._device.type:
                # Its memory is the side stream's, and may be written to again once it is freed.
                tensor.record_stream(stream)
        return self._batch


def tensors_of(batch: Any) -> list[Tensor]:
    """Return every tensor of a batch, as `mlo.batch.to_device` finds them.

    >>> tensors_of({"x": [torch.ones(1), "text"]})
    [tensor([1.])]
    """
    found: list[Tensor] = []

    def note(item: Any) -> Any:
        if isinstance(item, Tensor):
            found.append(item)
            return item
        return mapped(item, note)

    note(batch)
    return found


def _sent(item: Any, device: torch.device) -> Any:
    if not isinstance(item, Tensor):
        return mapped(item, lambda part: _sent(part, device))
    if item.device.type == "cpu" and item.layout == torch.strided:
        item = item.pin_memory()
    return item.to(device, non_blocking=True)
