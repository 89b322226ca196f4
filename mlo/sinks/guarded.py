"""A sink that cannot stop a run."""

from collections.abc import Callable

from mlo.events import Event
from mlo.sinks.protocol import Sink


class Guarded:
    """Passes events on until the sink fails; then says so, once, in one line, and drops it.

    Args:
        label: How the line calls the sink.
        sink: Takes the events.
        tell: Takes the line.
    """

    def __init__(self, label: str, sink: Sink, tell: Callable[[str], None]) -> None:
        self._label = label
        self._sink: Sink | None = sink
        self._tell = tell

    def write(self, event: Event, /) -> None:
        """Pass the event on, if the sink has not failed."""
        if self._sink is None:
            return
        try:
            self._sink.write(event)
        # Whatever fails in it, training goes on.
        except Exception as error:
            self._drop(error)

    def close(self) -> None:
        """Close the sink, if it has not failed."""
        if self._sink is None:
            return
        try:
            self._sink.close()
        # As in `write`.
        except Exception as error:
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        self._sink = None
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        self._tell(
            f"warning: nothing more is recorded by {self._label}: {type(error).__name__}: {reason}"
        )
