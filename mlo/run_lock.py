"""A lock that a process holds on a run directory for as long as it lives."""

import fcntl
import os
import stat
import time
import weakref
from pathlib import Path
from typing import Final

from mlo.errors import RunError

LOCK = "run.lock"
_ATTEMPTS: Final = 5
_PAUSE: Final = 0.05


class RunLock:
    """Held until `release`, or until the process ends, however it ends: the system sees to that.

    Worker processes that this one forks do not share it, so that none can outlive it with the lock.

    Args:
        directory: The run directory.

    Raises:
        RunError: Another process holds it, or there can be no such file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as name:
    ...     lock = RunLock(Path(name))
    ...     held = is_held(Path(name))
    ...     lock.release()
    ...     held, is_held(Path(name))
    (True, False)
    """

    def __init__(self, directory: Path) -> None:
        try:
            descriptor = _opened(directory / LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RunError(
                f"cannot lock the run directory {str(directory)!r}: {error.strerror}"
            ) from error
        if not _exclusive(descriptor):
            holder = _holder(descriptor)
            os.close(descriptor)
            raise RunError(f"{str(directory)!r}: {holder} is running it: wait for it, or stop it")
        # Also when nobody releases it: an unused record is no reason to keep a file open.
        self._close = weakref.finalize(self, os.close, descriptor)
        _HELD.add(self)
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError:
            # The number only makes a message better; a full disk is reported where it matters.
            return

    def release(self) -> None:
        """Let others have it."""
        self._close()


_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def is_held(directory: Path) -> bool:
    """Return whether a process holds the lock of a run directory; never waits, never raises."""
    try:
        descriptor = _opened(directory / LOCK, os.O_RDONLY)
    except (OSError, ValueError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # A file system without locks cannot tell.
        return False
    finally:
        os.close(descriptor)
    return False


def _opened(path: Path, flags: int) -> int:
    # In a directory from elsewhere it may be a link to another file, or a pipe to be waited for.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(None, f"{path.name} is no regular file")
    return descriptor


def _exclusive(descriptor: int) -> bool:
    """Return whether the lock is held now; one that only looks holds it for an instant."""
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE)
        except OSError:
            # A file system without locks: nobody can hold one there.
            return True
    return False


def _holder(descriptor: int) -> str:
    number = os.read(descriptor, 20).decode("ascii", "replace").strip()
    return f"process {number}" if number.isdecimal() and number.isascii() else "another process"


def _forget_in_child() -> None:
    for lock in list(_HELD):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)
