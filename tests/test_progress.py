import io

import torch
from rich.console import Console

from mlo.progress import bar, shown


def losses(item):
    return {"model": torch.tensor(item / 8)}


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
