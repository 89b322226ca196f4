import pytest

from mlo.events import line_of
from mlo.sinks.guarded import Guarded

EVENT = line_of("", {"a": 1})


class Fails:
    """Fails at the given calls, counted from 0."""

    def __init__(self, *at, error=None):
        self.at = at
        self.error = error or OSError("full\nand more")
        self.calls = []

    def _call(self, name):
        self.calls.append(name)
        if len(self.calls) - 1 in self.at:
            raise self.error

    def write(self, event):
        self._call("write")

    def close(self):
        self._call("close")


def test_a_sink_that_works_gets_everything_and_nothing_is_said():
    sink, said = Fails(), []
    guarded = Guarded("metrics", sink, said.append)
    guarded.write(EVENT)
    guarded.write(EVENT)
    guarded.close()
    assert sink.calls == ["write", "write", "close"]
    assert said == []


@pytest.mark.parametrize(
    "error", [OSError("full\nand more"), KeyError("x"), MemoryError(), ImportError("no module")]
)
def test_a_sink_that_fails_is_dropped_with_one_line(error):
    sink, said = Fails(1, error=error), []
    guarded = Guarded("metrics", sink, said.append)
    for _ in range(4):
        guarded.write(EVENT)
    guarded.close()
    assert sink.calls == ["write", "write"]
    [line] = said
    assert line.startswith(f"warning: nothing more is recorded by metrics: {type(error).__name__}")
    assert "\n" not in line


def test_a_sink_that_cannot_be_closed_is_reported():
    said = []
    Guarded("metrics", Fails(0), said.append).close()
    assert said == ["warning: nothing more is recorded by metrics: OSError: full"]


def test_an_interrupt_is_no_failure():
    guarded = Guarded("metrics", Fails(0, error=KeyboardInterrupt()), pytest.fail)
    with pytest.raises(KeyboardInterrupt):
        guarded.write(EVENT)
