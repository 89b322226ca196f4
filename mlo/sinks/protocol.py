"""What a sink is."""

from typing import Protocol

from mlo.events import Event


class Sink(Protocol):
    """Takes events; it may fail, which stops no run."""

    def write(self, event: Event, /) -> None:
        """Take down one event, so that it is not lost if the process is killed after."""
        ...

    def close(self) -> None:
        """Write out what is kept back, and end."""
        ...
