import io

import torch
from rich.console import Console

from mlo.events import histogram_of, line_of, scalars_of
from mlo.pace import Pace
from mlo.sinks.console import ConsoleLines


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def sink_and_clock():
    clock = Clock()
    console = Console(file=io.StringIO(), width=40)
    return ConsoleLines(console, Pace(clock)), clock, console.file


def test_lines_come_after_ten_seconds_and_then_each_half_minute():
    sink, clock, out = sink_and_clock()
    for now in range(100):
        clock.now = float(now)
        sink.write(scalars_of("", now, {"loss": 0.123456}))
    assert out.getvalue().splitlines() == [
        "step 10  loss 0.1235",
        "step 40  loss 0.1235",
        "step 70  loss 0.1235",
    ]


def test_only_scalars_are_printed_and_what_else_comes_takes_no_turn():
    sink, clock, out = sink_and_clock()
    clock.now = 50.0
    sink.write(histogram_of("", 1, "C", torch.zeros(2)))
    sink.write(line_of("", {"a": 1}))
    sink.write(scalars_of("", 1, {}))
    assert out.getvalue() == ""
    sink.write(scalars_of("lbg/seed-0", None, {"a": 1.0}))
    sink.close()
    assert out.getvalue() == "lbg/seed-0  a 1\n"


def test_a_line_is_one_line_and_no_markup():
    sink, clock, out = sink_and_clock()
    clock.now = 50.0
    sink.write(scalars_of("a [bold]b", 1, {f"loss/{name}": 1.0 for name in "abcdefgh"}))
    assert out.getvalue() == (
        "a [bold]b, step 1  " + "".join(f"loss/{name} 1  " for name in "abcdef") + "…\n"
    )
