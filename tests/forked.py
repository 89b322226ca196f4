"""Functions run in a process of their own, which is spared the seconds that imports take."""

import os
import signal
import time
import traceback

import pytest

FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
"""Marks tests that fork: newer Pythons advise against it where there are threads."""


def in_child(act, *arguments):
    """Run a function in a forked process; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(started(act, *arguments), 0)[1])


def started(act, *arguments):
    """Start a function in a forked process and return its number."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        act(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def killed(number, *, once):
    """Kill a process as soon as a condition holds, and wait for its end."""
    wait_until(once)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)


def wait_until(condition):
    """Wait, a minute at most, until a condition holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.01)
