import gc
import io
import weakref

from rich.console import Console

from mlo.pace import Pace, is_drawn_over, pace_of


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_due_after_ten_seconds_and_then_each_half_minute():
    clock = Clock()
    pace = Pace(clock)
    due = []
    for now in range(100, 200):
        clock.now = float(now)
        if pace.is_due():
            due.append(now)
    assert due == [110, 140, 170]


def test_a_late_line_puts_off_the_next():
    clock = Clock()
    pace = Pace(clock)
    clock.now = 1000.0
    assert pace.is_due()
    clock.now = 1029.0
    assert not pace.is_due()
    clock.now = 1030.0
    assert pace.is_due()


def test_all_who_print_to_a_console_share_a_pace_that_ends_with_it():
    one, other = Console(file=io.StringIO()), Console(file=io.StringIO())
    assert pace_of(one) is pace_of(one)
    assert pace_of(one) is not pace_of(other)
    pace = weakref.ref(pace_of(one))
    del one
    gc.collect()
    assert pace() is None


def test_where_a_display_can_be_drawn(monkeypatch):
    assert not is_drawn_over(Console(file=io.StringIO()))
    assert is_drawn_over(Console(file=io.StringIO(), force_terminal=True))
    monkeypatch.setenv("TERM", "dumb")
    assert not is_drawn_over(Console(file=io.StringIO(), force_terminal=True))
