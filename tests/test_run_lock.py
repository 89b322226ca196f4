import fcntl
import gc
import os
import time

import pytest

from mlo.errors import RunError
from mlo.run_lock import LOCK, RunLock, is_held
from tests.forked import FORKS, killed, started, wait_until


def test_a_second_lock_is_refused_and_names_the_process(tmp_path):
    lock = RunLock(tmp_path)
    with pytest.raises(RunError, match=f"process {os.getpid()} is running it"):
        RunLock(tmp_path)
    lock.release()
    lock.release()
    RunLock(tmp_path).release()


def hold(directory):
    lock = RunLock(directory)
    (directory / "held").touch()
    time.sleep(60)
    lock.release()


@FORKS
def test_the_lock_of_another_process_is_seen_and_ends_with_it(tmp_path):
    process = started(hold, tmp_path)

    def is_seen():
        return (tmp_path / "held").exists() and is_held(tmp_path)

    try:
        wait_until(is_seen)
        with pytest.raises(RunError, match=f"process {process} is running it"):
            RunLock(tmp_path)
    finally:
        killed(process, once=lambda: True)
    assert not is_held(tmp_path)
    RunLock(tmp_path).release()


def test_a_lock_that_nobody_keeps_is_let_go(tmp_path):
    lock = RunLock(tmp_path)
    assert is_held(tmp_path)
    del lock
    gc.collect()
    assert not is_held(tmp_path)


def wait_to_be_killed(directory):
    (directory / "forked").touch()
    time.sleep(60)


@FORKS
def test_a_forked_worker_neither_shares_the_lock_nor_releases_it(tmp_path):
    lock = RunLock(tmp_path)
    worker = started(wait_to_be_killed, tmp_path)
    try:
        wait_until((tmp_path / "forked").exists)
        assert is_held(tmp_path)
        lock.release()
        # The worker is alive, as one is whose parent was killed.
        assert not is_held(tmp_path)
    finally:
        killed(worker, once=lambda: True)


def test_one_who_only_looks_keeps_nobody_from_locking(tmp_path, monkeypatch):
    flock, pauses = fcntl.flock, []
    looking = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    flock(looking, fcntl.LOCK_SH)

    def pause(seconds):
        pauses.append(seconds)
        flock(looking, fcntl.LOCK_UN)

    monkeypatch.setattr(time, "sleep", pause)
    RunLock(tmp_path).release()
    os.close(looking)
    assert len(pauses) == 1


def test_where_there_are_no_locks_a_run_goes_on_without(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock = RunLock(tmp_path)
    assert not is_held(tmp_path)
    lock.release()


def test_what_is_no_regular_file_is_no_lock_and_is_not_waited_for(tmp_path):
    (tmp_path / "elsewhere").write_text("keep")
    for make in (
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to(tmp_path / "elsewhere"),
        lambda path: path.mkdir(),
    ):
        directory = tmp_path / str(time.monotonic_ns())
        directory.mkdir()
        make(directory / LOCK)
        assert not is_held(directory)
        with pytest.raises(RunError, match=r"^cannot lock the run directory"):
            RunLock(directory)
    assert (tmp_path / "elsewhere").read_text() == "keep"


def test_no_lock_in_what_is_no_directory(tmp_path):
    assert not is_held(tmp_path / "absent")
    with pytest.raises(RunError, match="No such file"):
        RunLock(tmp_path / "absent")
