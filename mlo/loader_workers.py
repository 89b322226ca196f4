"""What is particular to loaders that load in processes of their own."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from mlo.errors import BatchError

_CAUGHT = re.compile(r"Caught (\S+) (in .+)\.\nOriginal Traceback")


def has_workers(loader: object) -> bool:
    """Return whether batches are loaded in other processes.

    >>> has_workers(DataLoader([1, 2]))
    False
    """
    return isinstance(loader, DataLoader) and loader.num_workers > 0


def keeps_workers(loader: object) -> bool:
    """Return whether the same processes, with one iterator, serve all epochs."""
    return has_workers(loader) and bool(getattr(loader, "persistent_workers", False))


def has_kept_workers(loader: object) -> bool:
    """Return whether the processes of a loader that keeps them run already."""
    return keeps_workers(loader) and getattr(loader, "_iterator", None) is not None


def dismiss(loader: Any) -> None:
    """Let a loader that keeps its processes start new ones for the next epoch."""
    if has_kept_workers(loader):
        loader._iterator = None


@contextmanager
def started(loader: object) -> Iterator[None]:
    """Let no process that is started within be ended by Ctrl-C, which a terminal sends to all.

    A run that is asked to stop still needs the batches of its round. This process gets a signal
    that comes meanwhile a moment later.
    """
    if not has_workers(loader) or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # A mask is inherited, by a forked process and by one that executes another program.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_passed_on(error: Exception) -> bool:
    """Return whether an error was raised in a worker process, and is about one batch."""
    return str(error).startswith("Caught ")


def without_frames(error: Exception) -> Exception:
    """Return an error; that of a worker process without the frames by which it holds itself.

    They would keep the processes of its loader alive, and those that matter are in its text.
    """
    return error.with_traceback(None) if is_passed_on(error) else error


def is_lost(loader: object, error: Exception) -> bool:
    """Return whether an error leaves no batches to be had from the iterator that raised it.

    An error that a process has passed on is that of one batch, and so is one of this package; the
    next batch comes as if nothing had been. Any other one is of the processes or the sampler.
    """
    is_of_one_batch = is_passed_on(error) or isinstance(error, BatchError)
    return has_workers(loader) and not is_of_one_batch


def described(error: BaseException) -> str:
    r"""Return the type and the first line of an error, of the original one if it was passed on.

    >>> described(ValueError("no such row\nsecond line"))
    'ValueError: no such row'
    >>> described(KeyError())
    'KeyError'
    """
    text = str(error)
    caught = _CAUGHT.match(text)
    if caught is not None:
        return f"{_raised(text)} ({caught[2]})"
    if isinstance(error.__cause__, RuntimeError) and text.startswith("DataLoader worker"):
        # It knows the signal or the exit code.
        return described(error.__cause__)
    return ": ".join([type(error).__name__, *text.strip().splitlines()[:1]])


def _raised(trace: str) -> str:
    """Return the first line that is about the exception in what a traceback prints."""
    lines = trace.rstrip().splitlines()
    frames = [place for place, line in enumerate(lines) if line.startswith('  File "')]
    after = lines[frames[-1] + 1 :] if frames else lines[-1:]
    line = next((line for line in after if line and not line.startswith(" ")), lines[-1])
    kind, separator, message = line.partition(": ")
    return f"{kind.rsplit('.', 1)[-1]}{separator}{message}"
