"""Scalars as readable lines, now and then, where no terminal shows a live display."""

from rich.console import Console

from mlo.events import Event, Scalars
from mlo.pace import Pace

_NUMBERS = 6


class ConsoleLines:
    """Prints the latest scalars whenever a line is due; see `mlo.pace.Pace`.

    Args:
        console: Where it prints.
        pace: Says when.
    """

    def __init__(self, console: Console, pace: Pace) -> None:
        self._console = console
        self._pace = pace

    def write(self, event: Event, /) -> None:
        """Print the event, if it is time."""
        if not isinstance(event, Scalars) or not event.values or not self._pace.is_due():
            return
        where = [event.scope] if event.scope else []
        where += [] if event.step is None else [f"step {event.step}"]
        shown = [f"{name} {value:.4g}" for name, value in list(event.values.items())[:_NUMBERS]]
        more = ["…"] if len(event.values) > _NUMBERS else []
        self._console.print(
            "  ".join([", ".join(where), *shown, *more]).lstrip(),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        """Do nothing."""
