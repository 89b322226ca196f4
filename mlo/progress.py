"""A live display of rounds in a terminal; nothing where there is none."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from torch import Tensor

R = TypeVar("R")
_REFRESH_SECONDS = 0.2


def bar(console: Console) -> Progress:
    """Return the progress display that every part of `mlo` uses."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # What does not fit is cut here, so that a narrow terminal still shows the bar.
        TextColumn(
            "{task.fields[status]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
        console=console,
        expand=True,
        disable=not console.is_terminal,
    )


def shown(
    stream: Iterator[R],
    total: int,
    losses_of: Callable[[R], Mapping[str, Tensor]],
    *,
    console: Console | None = None,
) -> Iterator[R]:
    """Yield what `stream` yields while a bar shows the rounds done and the latest losses.

    Args:
        stream: The rounds.
        total: How many there will be.
        losses_of: Takes the losses out of a round.
        console: Where to draw; by default standard error, so that output stays clean.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield from stream
        return
    with bar(console) as display:
        task = display.add_task("rounds", total=total, status="")
        refreshed = 0.0
        for item in stream:
            display.advance(task)
            # Reading a loss waits for the device, so it is done only as often as anyone can see.
            if time.monotonic() - refreshed > _REFRESH_SECONDS:
                refreshed = time.monotonic()
                status = "  ".join(
                    f"{name} {float(loss):.4g}" for name, loss in losses_of(item).items()
                )
                display.update(task, status=status)
            yield item
