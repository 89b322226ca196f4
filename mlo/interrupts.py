"""Ctrl-C and SIGTERM as wishes that are granted between two rounds."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):  # it is no error, as a KeyboardInterrupt is none
    """A run was stopped from outside, after its state was saved.

    Attributes:
        round: The last round.
        checkpoint: Where its state is; None if nothing was saved.
        signal: The number of the signal.
    """

    def __init__(self, *, round: int, checkpoint: Path | None, signal: int) -> None:
        super().__init__(f"interrupted after round {round}")
        self.round = round
        self.checkpoint = checkpoint
        self.signal = signal


class Interrupts:
    """A context in which the first signal only sets `asked`; a second one interrupts at once.

    Only the main thread may handle signals: elsewhere nothing changes. A signal that is ignored
    outside, as Ctrl-C is in a background job, is ignored inside.

    >>> with Interrupts() as interrupts:
    ...     signal.raise_signal(signal.SIGINT)
    ...     interrupts.asked == signal.SIGINT
    True
    """

    def __init__(self) -> None:
        self._asked = 0
        self._was_told = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in _SIGNALS}
            self._before = {n: h for n, h in handlers.items() if h is not signal.SIG_IGN}
            for number in self._before:
                signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        if self._asked and not self._was_told and kind is None:
            # It came when nobody looked any more, and must not be lost.
            signal.raise_signal(self._asked)

    @property
    def asked(self) -> int:
        """The number of the signal that came; 0 for none."""
        self._was_told = self._was_told or self._asked != 0
        return self._asked

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            self._restore()
            raise KeyboardInterrupt
        self._asked = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}


@contextmanager
def heeded() -> Iterator[None]:
    """Let SIGTERM raise `Interrupted`, as Ctrl-C raises a KeyboardInterrupt.

    Only where nobody else handles it, and in the main thread.

    >>> with heeded():
    ...     try:
    ...         signal.raise_signal(signal.SIGTERM)
    ...     except Interrupted as interrupted:
    ...         interrupted.signal == signal.SIGTERM
    True
    """
    before = signal.getsignal(signal.SIGTERM)
    is_ours = before is signal.SIG_DFL and threading.current_thread() is threading.main_thread()

    def end(number: int, _: FrameType | None) -> None:
        raise Interrupted(round=0, checkpoint=None, signal=number)

    if is_ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, before)
