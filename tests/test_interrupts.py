"""Ctrl-C and SIGTERM: the round ends, its state is saved, and a second signal stops at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from mlo import Callbacks, Checkpoints, Interrupted
from mlo.interrupts import Interrupts, heeded
from tests.programs import same_bits, snapshot
from tests.stateful_programs import PROGRAMS, reweighting

ROOT = Path(__file__).parent.parent
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(number):
    os.kill(os.getpid(), number)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def _as_before():
    """Whatever a test does, the handlers are those of before when it ends."""
    before = handlers()
    yield
    now = handlers()
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    assert now == before


# The context alone


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_asks(number):
    with Interrupts() as interrupts:
        assert interrupts.asked == 0
        send(number)
        assert interrupts.asked == number


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_the_second_signal_interrupts_at_signalled(first, second):
    before, reached = handlers(), []

    def work():
        with Interrupts() as interrupts:
            send(first)
            reached.append(interrupts.asked)
            send(second)
            reached.append("further")

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert reached == [first]
    assert not isinstance(caught.value, Interrupted)
    assert handlers() == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_nobody_has_looked_at_comes_again_outside(number):
    seen = []
    before = signal.signal(number, lambda number, frame: seen.append(number))
    with Interrupts():
        send(number)
        assert seen == []
    signal.signal(number, before)
    assert seen == [number]


def test_a_signal_that_nobody_has_looked_at_does_not_hide_an_exception():
    def work():
        with Interrupts():
            send(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_sigterm_is_heeded_where_nobody_else_does():
    def work():
        with heeded():
            send(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted) as caught:
            work()
        assert (caught.value.checkpoint, caught.value.signal) == (None, signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        seen = []
        signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
        work()
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_exception_within_comes_out_and_handlers_are_as_before():
    before = handlers()

    def work():
        with Interrupts():
            assert handlers() != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert handlers() == before


def test_outside_the_main_thread_nothing_changes():
    before, seen = handlers(), []

    def work():
        with Interrupts() as interrupts:
            seen.append((handlers(), interrupts.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, 0)]


def test_a_signal_that_is_ignored_stays_ignored():
    """As Ctrl-C is in a job in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            send(signal.SIGINT)
            assert interrupts.asked == 0
            send(signal.SIGTERM)
            assert interrupts.asked == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_within_each_other_the_innermost_is_asked():
    with Interrupts() as outer:
        with Interrupts() as inner:
            send(signal.SIGINT)
            assert (inner.asked, outer.asked) == (signal.SIGINT, 0)
        send(signal.SIGTERM)
        assert outer.asked == signal.SIGTERM


def test_what_is_raised_is_no_error():
    error = Interrupted(round=3, checkpoint=Path("x"), signal=2)
    assert isinstance(error, KeyboardInterrupt)
    assert not isinstance(error, Exception)
    assert (error.round, error.checkpoint, error.signal) == (3, Path("x"), 2)


# In a run


def signalled(engine, at, number=signal.SIGINT, times=1):
    """Return callbacks that send signals after the first update of a round."""
    left = [number] * times

    def after_update(name, swept):
        while engine.round == at and left:
            send(left.pop())

    return Callbacks(after_update=after_update)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_round_ends_and_is_saved(number, tmp_path):
    make = reweighting()
    whole = make(0)
    torch.manual_seed(0)
    whole.run(6, show_progress=False)
    weights, drawn = snapshot(whole.graph), torch.get_rng_state()
    part = make(0)
    torch.manual_seed(0)
    checkpoints = Checkpoints(directory=tmp_path, every=100)
    with pytest.raises(Interrupted, match=r"^interrupted after round 3$") as caught:
        part.run(
            6,
            checkpoints=checkpoints,
            callbacks=signalled(part, 3, number),
            show_progress=False,
        )
    [path] = tmp_path.iterdir()
    assert (caught.value.round, caught.value.checkpoint, caught.value.signal) == (3, path, number)
    assert part.round == 3
    fresh = make(1)
    fresh.run(until=6, checkpoints=checkpoints, resume=True, show_progress=False)
    assert same_bits(snapshot(fresh.graph), weights)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_second_signal_stops_at_once_and_saves_nothing(tmp_path):
    engine = reweighting()(0)
    before = handlers()
    with pytest.raises(KeyboardInterrupt) as caught:
        engine.run(
            6,
            checkpoints=Checkpoints(directory=tmp_path, every=2),
            callbacks=signalled(engine, 3, times=2),
            show_progress=False,
        )
    assert not isinstance(caught.value, Interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["round-000000002.mlo"]
    # The round that was broken off has not happened.
    assert engine.round == 2
    assert handlers() == before
    assert engine.run(1, show_progress=False).number == 3


def test_without_checkpoints_ctrl_c_is_immediate():
    engine = reweighting()(0)
    with pytest.raises(KeyboardInterrupt) as caught:
        engine.run(6, callbacks=signalled(engine, 3), show_progress=False)
    assert not isinstance(caught.value, Interrupted)
    assert engine.round == 2


def test_a_signal_while_the_last_state_is_written_is_not_lost(tmp_path):
    engine = reweighting()(0)
    checkpoints = Checkpoints(directory=tmp_path)
    with pytest.raises(Interrupted) as caught:
        engine.run(
            2,
            checkpoints=checkpoints,
            callbacks=Callbacks(after_checkpoint=lambda path: send(signal.SIGINT)),
            show_progress=False,
        )
    assert caught.value.checkpoint == checkpoints.paths()[-1]
    again = reweighting()(0)
    done = again.run(until=2, checkpoints=checkpoints, resume=True, show_progress=False)
    assert done.number == 2


def test_a_signal_in_the_round_after_which_the_run_stops(tmp_path):
    """Resumed, the run has stopped already."""
    engine = reweighting()(0)
    checkpoints = Checkpoints(directory=tmp_path)
    with pytest.raises(Interrupted):
        engine.run(
            9,
            checkpoints=checkpoints,
            stopping=lambda done: done.number == 3,
            callbacks=signalled(engine, 3, signal.SIGINT),
            show_progress=False,
        )
    assert checkpoints.load().state["stopped"] is True
    assert checkpoints.load().round == 3


def test_handlers_are_as_before_after_any_end_of_a_run(tmp_path):
    before = handlers()
    engine = reweighting()(0)
    options = {"checkpoints": Checkpoints(directory=tmp_path, every=1), "show_progress": False}
    engine.run(1, **options)
    assert handlers() == before

    def fail(done):
        assert handlers() != before
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.run(1, callbacks=Callbacks(after_round=fail), **options)
    assert handlers() == before


def test_a_run_in_another_thread(tmp_path):
    engine, before, seen = reweighting()(0), handlers(), []

    def work():
        engine.run(
            2,
            checkpoints=Checkpoints(directory=tmp_path),
            callbacks=Callbacks(after_round=lambda done: seen.append(handlers())),
            show_progress=False,
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert engine.round == 2
    assert seen == [before, before]


# Real processes

CHILD = """
import sys, time
from pathlib import Path
import torch
import mlo
from tests.stateful_programs import PROGRAMS, Augmented, reweighting, shuffled

torch.set_num_threads(1)
kind, directory = sys.argv[1:]
loader = lambda: shuffled(Augmented(), num_workers=2)
engine = reweighting(loader=loader if kind == "workers" else None)(0)
torch.manual_seed(0)

def tell(done):
    print(done.number, flush=True)
    if kind == "stuck":
        while True:
            time.sleep(1)

checkpoints = None if kind == "unsaved" else mlo.Checkpoints(directory=Path(directory), every=10**6)
try:
    engine.run(
        10**7, checkpoints=checkpoints, callbacks=mlo.Callbacks(after_round=tell),
        show_progress=False,
    )
except mlo.Interrupted as error:
    print("saved", error.round, error.checkpoint.name, error.signal, flush=True)
except KeyboardInterrupt:
    print("stopped", engine.round, flush=True)
"""


def child(kind, directory):
    """Start a run without end, in a process group of its own, and wait until it is on its way."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, kind, str(directory)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    first = process.stdout.readline()
    assert first == "1\n"
    return process


def last_words(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("kind", "number"), [("workers", signal.SIGINT), ("plain", signal.SIGTERM)]
)
def test_a_process_that_is_interrupted_goes_on_bit_for_bit(kind, number, tmp_path):
    """Ctrl-C in a terminal goes to the whole group, workers of loaders included."""
    process = child(kind, tmp_path)
    if kind == "workers":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    word, round_, name, found = last_words(process)
    assert (word, int(found)) == ("saved", number)
    last = int(round_)
    assert [path.name for path in tmp_path.iterdir()] == [name] == [f"round-{last:09}.mlo"]
    if kind == "workers":
        # Some thousand epochs with workers would take long.
        return
    whole = PROGRAMS["plain"](0)
    torch.manual_seed(0)
    whole.run(last + 2, show_progress=False)
    weights, drawn = snapshot(whole.graph), torch.get_rng_state()
    fresh = PROGRAMS["plain"](1)
    checkpoints = Checkpoints(directory=tmp_path)
    fresh.run(until=last + 2, checkpoints=checkpoints, resume=True, show_progress=False)
    assert same_bits(snapshot(fresh.graph), weights)
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stuck", "unsaved"])
def test_a_process_that_cannot_wait_is_stopped_at_signalled(kind, tmp_path):
    process = child(kind, tmp_path)
    process.send_signal(signal.SIGINT)
    if kind == "stuck":
        # Whenever it is handled, it is the second one that ends the sleep.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        process.send_signal(signal.SIGINT)
    assert last_words(process)[0] == "stopped"
    assert not list(tmp_path.iterdir())
