"""Ctrl-C and SIGTERM as wishes that are granted between two rounds."""

import signal
import threading
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

    Attributes:
        asked: The number of the signal that came; 0 for none.

    >>> with Interrupts() as interrupts:
    ...     signal.raise_signal(signal.SIGINT)
    ...     interrupts.asked == signal.SIGINT
    True
    """

    def __init__(self) -> None:
        self.asked = 0
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

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            self._restore()
            raise KeyboardInterrupt
        self.asked = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
