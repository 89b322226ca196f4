"""A live display of rounds in a terminal; now and then a line where there is none."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, TypeVar

from rich.console import Console, Group, RenderableType
from rich.errors import LiveError
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor

from mlo.answers import Outcomes, answers, failures
from mlo.events import numbers_of
from mlo.pace import Pace, is_drawn_over, pace_of
from mlo.speed import Speed

R = TypeVar("R")
_READ_SECONDS: Final = 0.2
_WIDE: Final = 72

_Seen = tuple[int, Mapping[str, Tensor], Outcomes, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What is known of the latest round that was read."""

    number: int
    losses: Mapping[str, str] = field(default_factory=dict)
    rates: Mapping[str, str] = field(default_factory=dict)
    answers: Sequence[Text] = ()
    failures: Sequence[str] = ()


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
            if time.monotonic() - refreshed > _READ_SECONDS:
                refreshed = time.monotonic()
                status = "  ".join(
                    f"{name} {float(loss):.4g}" for name, loss in losses_of(item).items()
                )
                display.update(task, status=status)
            yield item


class Watch:
    """Shows the rounds of a run, and a row for each problem below them.

    A row tells the latest loss, the updates done, the learning rate and, where the problem is
    differentiated through others, how they answered. Where no display can be drawn, a line of text
    comes after ten seconds and then every half minute: short runs print nothing.

    Losses and outcomes may still be on their way on an accelerator. They are read, which waits for
    it, only as often as anyone can see.

    Args:
        problems: Updates of each problem in a round, by name.
        total: The last round; None if nobody knows.
        first: Rounds that were done before.
        console: Where to draw; by default standard error, so that output stays clean.
        pace: Says when a line is due; by default the one that all share who print to `console`.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        problems: Mapping[str, int],
        *,
        total: int | None,
        first: int = 0,
        console: Console | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._problems = problems
        self._total = total
        self._console = console or Console(stderr=True)
        self._is_drawn = is_drawn_over(self._console)
        self._pace = pace or pace_of(self._console)
        self._clock = clock
        self._start = clock()
        self._read_at = -math.inf
        self._speed = Speed(self._start, first)
        self._unread: _Seen | None = None
        self._shown = _Shown(number=first)
        self._printed = 0
        self._live: Live | None = None

    def __enter__(self) -> "Watch":
        if self._is_drawn:
            live = Live(
                get_renderable=self._rendered,
                console=self._console,
                refresh_per_second=4,
                vertical_overflow="ellipsis",
            )
            # Some versions of rich allow but one display at a time; the one there stays.
            with suppress(LiveError):
                live.start()
                self._live = live
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # After an error, reading could raise another one over it.
            if error is None and (self._live is not None or self._printed):
                self._read()
        finally:
            if self._live is not None:
                self._live.stop()
        if self._live is None and self._printed not in (0, self._shown.number):
            self._print()

    def update(
        self,
        number: int,
        losses: Mapping[str, Tensor],
        outcomes: Outcomes,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """Show a round, if it is time.

        Args:
            number: Of the round.
            losses: By problem.
            outcomes: For each differentiated problem, how the problems below it answered.
            rates: Learning rates by problem.
        """
        now = self._clock()
        self._speed.add(now, number)
        self._unread = (number, losses, outcomes, rates or {})
        if self._live is not None:
            if now - self._read_at >= _READ_SECONDS:
                self._read_at = now
                self._read()
        elif not self._is_drawn and self._pace.is_due():
            self._read()
            self._print()

    def _read(self) -> None:
        if self._unread is None:
            return
        (number, losses, outcomes, rates), self._unread = self._unread, None
        self._shown = _Shown(
            number=number,
            losses={n: f"{loss:.4g}" for n, loss in numbers_of(losses, "losses").items()},
            rates={n: f"{rate:.3g}" for n, rate in rates.items()},
            answers=answers(outcomes),
            failures=failures(outcomes),
        )

    def _rendered(self) -> RenderableType:
        """Return the display; a thread draws it, so that the clock goes on in a long round."""
        parts: list[RenderableType] = [self._rounds(), self._rows()]
        if self._shown.answers:
            parts.append(self._answers())
        return Group(*parts)

    def _rounds(self) -> Table:
        number, total = self._shown.number, self._total
        is_wide = self._console.width >= _WIDE
        cells: list[RenderableType] = [f"round {number:,}" + (f"/{total:,}" if total else "")]
        if total:
            cells += [ProgressBar(total=total, completed=number), f"{number / total:.0%}"]
        if is_wide or not total:
            cells.append(f"{self._speed.per_second:.3g}/s")
        if is_wide or not total:
            cells.append(f"{_clock_time(self._clock() - self._start)} gone")
        if total and (left := self._speed.left(total)) is not None:
            cells.append(f"{_clock_time(left)} left")
        line = Table.grid(padding=(0, 2 if is_wide else 1))
        for cell in cells:
            is_bar = isinstance(cell, ProgressBar)
            line.add_column(no_wrap=True, ratio=1 if is_bar else None)
            line.expand |= is_bar
        line.add_row(*cells)
        return line

    def _rows(self) -> Table:
        shown, width = self._shown, self._console.width
        is_wide = width >= _WIDE
        rows = Table.grid(padding=(0, 2 if is_wide else 1))
        # A name may be cut, a number never.
        rows.add_column(no_wrap=True, max_width=max(8, width - (46 if is_wide else 20)))
        rows.add_column(no_wrap=True)
        if is_wide:
            rows.add_column(no_wrap=True, justify="right")
            rows.add_column(no_wrap=True)
        for name, steps in self._problems.items():
            loss, rate = shown.losses.get(name), shown.rates.get(name)
            more = [f"{shown.number * steps:,} updates", f"rate {rate}" if rate else ""]
            cells = [f"  {name}", f"loss {loss}" if loss else "", *(more if is_wide else [])]
            rows.add_row(*map(Text, cells))
        return rows

    def _answers(self) -> RenderableType:
        lines = [Text("  ").append_text(line) for line in self._shown.answers]
        return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)

    def _print(self) -> None:
        shown, total = self._shown, self._total
        self._printed = shown.number
        parts = [f"round {shown.number}" + (f"/{total}" if total else "")]
        if total:
            parts.append(f"{shown.number / total:.0%}")
        parts.append(f"{self._speed.per_second:.3g} rounds/s")
        if total and shown.number < total and (left := self._speed.left(total)) is not None:
            parts.append(f"left {_clock_time(left)}")
        parts += [f"{name} {loss}" for name, loss in shown.losses.items()]
        parts += shown.failures
        self._console.print("  ".join(parts), markup=False, highlight=False, soft_wrap=True)


def watch(
    problems: Mapping[str, int],
    *,
    total: int | None,
    first: int = 0,
    console: Console | None = None,
) -> Watch:
    """Return the display of a run as a context; see `Watch`."""
    return Watch(problems, total=total, first=first, console=console)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
