"""Warnings of what a run could not take down."""

from contextlib import suppress

from rich.console import Console

from mlo.run_directory import RunFile


class Warned:
    """Says a thing once: on the console, and in ``run.json`` if that can be written.

    Args:
        console: Where it is said.
        run: Where it is noted.
    """

    def __init__(self, console: Console, run: RunFile) -> None:
        self._console = console
        self._run = run
        self._said: set[str] = set()

    def __call__(self, text: str) -> None:
        """Say it, unless it has been said; nothing that fails here stops a run."""
        if text in self._said:
            return
        self._said.add(text)
        # The console may be a closed pipe, and a full disk what the text is about.
        with suppress(OSError, ValueError):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        with suppress(OSError):
            self._run.warn(text)
