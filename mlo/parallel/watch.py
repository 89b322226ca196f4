"""Whether the other ranks are alive: each one's heartbeat, and the last words of one that fails."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

# Published without saying so.
from torch.distributed import Store  # type: ignore[attr-defined]

from mlo.parallel.failure import ParallelError, first_line, located

T = TypeVar("T")
Fault = dict[int, str]
"""What happened to each rank that is to blame: ``"died (...)"`` or ``"failed: ..."``."""

_BEATS_IN_PATIENCE = 10


class Watch:
    """A thread that lets this rank's heart beat in a store, and listens to the next rank's.

    The first rank that finds another one silent, or that fails itself, writes down whose fault it
    is; every rank then ends with the same words. An operation that waits for a rank that has gone,
    and that no backend ends, is ended with the process.

    Args:
        store: Shared by all ranks; its keys must be this watch's own.
        rank: This process.
        size: How many there are.
        patience: Seconds without a beat after which a rank is taken for dead. Also how long a
            process is given to end itself once a fault is known.
        ends_idle: Whether a process is ended that is not in an operation either, as where a device
            waits for the others unseen.

    Attributes:
        where: Ends the message of an error, such as ``"in round 37"``.
    """

    def __init__(
        self, store: Store, rank: int, size: int, *, patience: float = 5.0, ends_idle: bool = False
    ) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._patience = patience
        self._interval = patience / _BEATS_IN_PATIENCE
        self._ends_idle = ends_idle
        self.where = ""
        self._ends = threading.Event()
        self._fault: Fault | None = None
        self._is_noticed = threading.Event()
        self._waiting = 0
        self._beats = 0
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="mlo-watch", daemon=True)
        self._thread.start()

    @property
    def has_fault(self) -> bool:
        """Whether a rank is known to have died or failed."""
        return self._fault is not None

    @property
    def is_ending(self) -> bool:
        """Whether this process is about to raise the error that says so."""
        return self._is_noticed.is_set()

    def run(self, operation: Callable[[], T], /) -> T:
        """Return what the operation returns.

        Raises:
            ParallelError: If it fails, or a rank is known to have gone.
        """
        if self._fault is not None:
            raise self._noticed()
        self._waiting += 1
        try:
            return operation()
        # Backends have no class of their own for a peer that has gone.
        except RuntimeError as error:
            self._is_noticed.set()
            if self.found() is None:
                reason = f"failed: an operation between ranks: {first_line(error)}"
                self._blame({self._rank: reason})
            raise self._noticed() from error
        finally:
            self._waiting -= 1

    def found(self) -> ParallelError | None:
        """Return what has happened to other ranks, waiting until it would have come out."""
        listener = _Listener(set(range(self._size)) - {self._rank})
        end = time.monotonic() + self._patience + 4 * self._interval
        while self._fault is None and time.monotonic() < end:
            try:
                self._fault = self._written_fault()
                silent = listener.silent(self._beats_of(listener.ranks), self._patience)
                if self._fault is None and silent:
                    self._blame({r: self._silence for r in silent if not self._is("done", r)})
            except RuntimeError as error:
                self._fault = _store_lost(error)
            if self._fault is None:
                time.sleep(self._interval / 2)
        return None if self._fault is None else self._noticed()

    def failed(self, error: BaseException) -> None:
        """Tell the others that this rank ends with an error, unless another's is known."""
        self._is_noticed.set()
        if self._fault is None:
            line = first_line(error)
            name = type(error).__name__
            told = line if isinstance(error, ValueError) or line == name else f"{name}: {line}"
            self._blame({self._rank: f"failed: {told}"})
        self._stop()

    def finished(self) -> None:
        """Wait until all ranks have finished.

        Raises:
            ParallelError: If one dies or fails instead.
        """
        self._store.set(f"done/{self._rank}", "1")
        keys = [f"done/{rank}" for rank in range(self._size)]
        while not self.run(lambda: self._store.check(keys)):
            time.sleep(min(self._interval, 0.05))
        self._stop()
        self._store.set(f"left/{self._rank}", "1")
        # The store may be in the process of rank 0.
        keys = [f"left/{rank}" for rank in range(self._size)]
        end = time.monotonic() + self._patience
        while self._rank == 0 and time.monotonic() < end and not self._store.check(keys):
            time.sleep(min(self._interval, 0.05))

    def _stop(self) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        following = (self._rank + 1) % self._size
        listener = _Listener({following} - {self._rank})
        while not self._ends.wait(self._interval):
            try:
                self._beat()
                self._fault = self._fault or self._written_fault()
                silent = listener.silent(self._beats_of(listener.ranks), self._patience)
                if self._fault is None and silent and not self._is("done", following):
                    self._blame({following: self._silence})
            except RuntimeError as error:
                self._fault = self._fault or _store_lost(error)
            if self._fault is not None:
                self._end_if_stuck()
                return

    def _end_if_stuck(self) -> None:
        """Give the process time to end itself, and end it if it hangs in an operation."""
        end = time.monotonic() + self._patience
        while not self._ends.wait(self._interval):
            if self._is_noticed.is_set():
                return
            if time.monotonic() > end and (self._waiting or self._ends_idle):
                error = self._noticed()
                if error.speaks:
                    sys.stderr.write(f"mlo: error: {error}\n")
                    sys.stderr.flush()
                # Threads that wait for another process can be ended in no other way.
                os._exit(1)

    @property
    def _silence(self) -> str:
        return f"died (no heartbeat for {self._patience:g} s)"

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(f"beat/{self._rank}", str(self._beats))

    def _beats_of(self, ranks: Iterable[int]) -> dict[int, str]:
        # A rank that has not begun yet has no beat.
        begun = [rank for rank in ranks if self._is("beat", rank)]
        return {rank: self._store.get(f"beat/{rank}").decode() for rank in begun}

    def _is(self, what: str, rank: int) -> bool:
        return bool(self._store.check([f"{what}/{rank}"]))

    def _written_fault(self) -> Fault | None:
        if not self._store.check(["fault"]):
            return None
        return {int(rank): reason for rank, reason in json.loads(self._store.get("fault")).items()}

    def _blame(self, fault: Fault) -> None:
        """Write down whose fault it is, unless that has been written already."""
        if not fault:
            return
        try:
            self._store.compare_set("fault", "", json.dumps(fault))
            self._fault = self._written_fault()
        except RuntimeError:
            self._fault = fault

    def _noticed(self) -> ParallelError:
        assert self._fault is not None
        self._is_noticed.set()
        told = "; ".join(f"rank {rank} {reason}" for rank, reason in sorted(self._fault.items()))
        left = set(range(self._size)) - set(self._fault)
        return ParallelError(
            located(told, self.where),
            ranks=tuple(sorted(self._fault)),
            speaks=self._rank == min(left, default=self._rank),
        )


class _Listener:
    """Which of some ranks have been silent for long."""

    def __init__(self, ranks: set[int]) -> None:
        self.ranks = ranks
        self._heard: dict[int, tuple[str, float]] = {}
        self._listened = time.monotonic()

    def silent(self, beats: dict[int, str], patience: float) -> list[int]:
        """Return the ranks whose beat has been the same for `patience` seconds."""
        now = time.monotonic()
        if now - self._listened > patience / 2:
            # This process itself was stopped for a while, and perhaps others with it.
            self._heard.clear()
        self._listened = now
        for rank, beat in beats.items():
            if self._heard.get(rank, ("", now))[0] != beat:
                self._heard[rank] = beat, now
        return [rank for rank, (_, since) in self._heard.items() if now - since > patience]


def _store_lost(error: RuntimeError) -> Fault:
    return {0: f"died, or the launcher beside it (its store is gone: {first_line(error)})"}
