import io
import re

import pytest
import torch
from rich.console import Console
from rich.live import Live

from mlo.outcome import Outcome, Status
from mlo.pace import Pace
from mlo.progress import Watch, bar, shown, watch

PROBLEMS = {"model": 5, "weights": 1}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Read(torch.Tensor):
    """A loss that counts how often anyone looked at it."""

    reads = 0

    def item(self):
        type(self).reads += 1
        return super().item()


@pytest.fixture(autouse=True)
def nothing_read():
    Read.reads = 0


def losses(item):
    return {"model": torch.tensor(item / 8)}


def log():
    """Return a console that is no terminal."""
    return Console(file=io.StringIO(), width=200)


def terminal(width=80):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=30)


def plain(console):
    """Return what a terminal shows after all, without what moves and colours it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def run(console, rounds, *, total=None, first=0, seconds=1.0, problems=PROBLEMS, **options):
    """Watch rounds that take so many seconds each."""
    clock = Clock()
    display = Watch(
        problems, total=total, first=first, console=console, clock=clock, pace=Pace(clock)
    )
    with display:
        for number in range(first + 1, first + 1 + rounds):
            clock.now += seconds
            at = torch.tensor(1 / number).as_subclass(Read)
            display.update(number, {"model": at, "weights": at}, **{"outcomes": {}, **options})
    return console


def test_nothing_is_drawn_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), force_terminal=False)
    assert list(shown(iter(range(5)), 5, losses, console=console)) == list(range(5))
    assert console.file.getvalue() == ""


def test_a_terminal_shows_rounds_and_losses():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    assert list(shown(iter(range(1, 4)), 3, losses, console=console)) == [1, 2, 3]
    drawn = console.file.getvalue()
    assert "3/3" in drawn
    assert "model 0.125" in drawn


def test_an_item_is_handed_on_before_the_next_is_made():
    made = []

    def stream():
        for item in range(3):
            made.append(item)
            yield item

    console = Console(file=io.StringIO(), force_terminal=True)
    rounds = shown(stream(), 3, losses, console=console)
    assert next(rounds) == 0
    assert made == [0]
    rounds.close()


def test_a_bar_is_disabled_without_a_terminal():
    assert bar(Console(file=io.StringIO(), force_terminal=False)).disable
    assert not bar(Console(file=io.StringIO(), force_terminal=True)).disable


def test_short_runs_say_nothing_in_a_log_and_read_no_loss():
    console = run(log(), 9, total=9)
    assert console.file.getvalue() == ""
    assert Read.reads == 0


def test_long_runs_say_a_line_now_and_then_and_one_at_the_end():
    console = run(log(), 100, total=100)
    assert console.file.getvalue().splitlines() == [
        "round 10/100  10%  1 rounds/s  left 1:30  model 0.1  weights 0.1",
        "round 40/100  40%  1 rounds/s  left 1:00  model 0.025  weights 0.025",
        "round 70/100  70%  1 rounds/s  left 0:30  model 0.01429  weights 0.01429",
        "round 100/100  100%  1 rounds/s  model 0.01  weights 0.01",
    ]
    assert Read.reads == 8


def test_the_last_line_is_not_printed_twice():
    assert run(log(), 40, total=40).file.getvalue().count("round 40/40") == 1


def test_a_run_that_stops_early_ends_with_where_it_stopped():
    lines = run(log(), 50, total=1000).file.getvalue().splitlines()
    assert lines[-1].startswith("round 50/1000  5%  1 rounds/s  left 15:50")


def test_a_resumed_run_counts_only_its_own_rounds_for_the_rate():
    [line, _] = run(log(), 11, first=500, total=1000).file.getvalue().splitlines()
    assert line.startswith("round 510/1000  51%  1 rounds/s  left 8:10")


def test_a_run_of_unknown_length_has_no_end_in_sight():
    [line, _] = run(log(), 11, seconds=2.0).file.getvalue().splitlines()
    assert line == "round 5  0.5 rounds/s  model 0.2  weights 0.2"


def test_a_log_says_what_failed_and_only_that():
    outcomes = {
        "weights": {
            "model": Outcome(solver="cg", code=Status.DIVERGED, relative_residual=3.0),
            "other": Outcome(solver="cg", code=Status.TRUNCATED),
        }
    }
    [line, _] = run(log(), 11, total=100, outcomes=outcomes).file.getvalue().splitlines()
    assert line.endswith("weights 0.1  weights through model: diverged (residual 3)")


def test_names_are_no_markup():
    console = log()
    run(console, 10, total=10, problems={"[red]x": 1})
    clock = Clock()
    with Watch({}, total=9, console=console, clock=clock, pace=Pace(clock)) as display:
        clock.now = 11.0
        display.update(1, {"[red]x[/red]": torch.tensor(1.0)}, {})
    assert "[red]x[/red] 1" in console.file.getvalue()
    screen = terminal()
    with watch({"[red]x": 1}, total=9, console=screen) as display:
        display.update(1, {}, {})
    assert "[red]x" in plain(screen)


def test_after_an_error_no_loss_is_read():
    console, clock = log(), Clock()
    loss = torch.tensor(1.0).as_subclass(Read)

    def fail():
        with Watch({}, total=99, console=console, clock=clock, pace=Pace(clock)) as display:
            clock.now = 11.0
            display.update(1, {"model": loss}, {})
            display.update(2, {"model": loss}, {})
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fail()
    assert Read.reads == 1
    assert console.file.getvalue().count("\n") == 1


OUTCOMES = {
    "weights": {
        "model": Outcome(solver="cg", code=torch.tensor(2), relative_residual=torch.tensor(0.0123)),
        "plain": Outcome(solver="one step", code=Status.ONE_STEP),
        "worse": Outcome(solver="cg", code=Status.NEGATIVE_CURVATURE, relative_residual=0.5),
    }
}


def test_a_terminal_shows_all_that_matters():
    console = run(terminal(), 120, total=1000, outcomes=OUTCOMES, rates={"weights": 1e-3})
    *_, top, model, weights, worse, truncated = plain(console).strip().splitlines()
    assert re.fullmatch(r"round 120/1,000  [━╸╺]+  12%  1/s  2:00 gone  14:40 left", top)
    assert re.fullmatch(r"  model    loss 0\.008333  600 updates", model.rstrip())
    assert re.fullmatch(r"  weights  loss 0\.008333  120 updates  rate 0\.001", weights.rstrip())
    assert worse.strip() == "weights through worse: negative curvature (residual 0.5)"
    assert truncated.strip() == "weights through model: truncated (residual 0.012)"
    assert "plain" not in plain(console)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    problems = {"architecture of the student": 1, "model": 5}
    console = run(terminal(width), 3, total=10**6, problems=problems, outcomes=OUTCOMES)
    for line in plain(console).replace("\r", "\n").splitlines():
        assert len(line) <= width
    assert "loss 0.3" in plain(console)


def test_losses_are_read_five_times_a_second_and_at_the_end():
    run(terminal(), 101, total=101, seconds=0.0625)
    # Rounds 1, 5, 9, ..., 101 of two problems each.
    assert Read.reads == 52


def test_a_terminal_ends_with_the_last_round():
    console = run(terminal(), 57, total=1000, seconds=0.001)
    assert "round 57/1,000" in plain(console).splitlines()[-3]


def test_a_display_of_unknown_length():
    console = run(terminal(40), 3)
    assert "round 3 1/s 0:03 gone" in plain(console)


def test_a_display_within_another_leaves_that_alone(monkeypatch):
    # As rich does before version 14.1.
    def refuse(self):
        from rich.errors import LiveError  # noqa: PLC0415

        raise LiveError("Only one live display may be active at once")

    monkeypatch.setattr(Live, "start", refuse)
    console = run(terminal(), 100, total=100)
    assert console.file.getvalue() == ""


def test_what_is_printed_meanwhile_stays(tmp_path):
    console = terminal()
    with watch(PROBLEMS, total=2, console=console) as display:
        display.update(1, {"model": torch.tensor(1.0)}, {})
        console.print("a line of the program's own")
        display.update(2, {"model": torch.tensor(1.0)}, {})
    assert "a line of the program's own\n" in plain(console).replace("\r", "")


def test_a_watch_without_rounds():
    for console in (log(), terminal()):
        with watch(PROBLEMS, total=2, console=console):
            pass
    assert Read.reads == 0
