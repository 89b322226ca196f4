"""Joining the other processes of a run that ``torchrun`` has started."""

import functools
import itertools
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

# Published without saying so.
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from mlo.device import resolve
from mlo.errors import MloError
from mlo.interrupts import Interrupted
from mlo.parallel.data_parallel import DataParallel
from mlo.parallel.watch import Watch

_joined = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Job:
    """What ``torchrun`` tells a process by its environment.

    Attributes:
        rank: This process, counted from 0.
        size: How many there are.
        local_rank: This process among those of its host.
        local_size: How many there are on this host.
        host: Where the store of the job is.
        port: Its port.
        attempt: How often the job has been restarted.
        has_store: Whether the launcher keeps the store; otherwise the process of rank 0 does.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int
    attempt: int
    has_store: bool


def job_of(environment: Mapping[str, str]) -> Job | None:
    """Return the job that an environment describes, None outside ``torchrun``.

    Raises:
        MloError: If the description has a gap or is no number.

    >>> job_of({}) is None
    True
    >>> given = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    >>> job_of(given).size
    2
    """
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return None

    def number(name: str, default: str | None = None) -> int:
        text = environment.get(name, default)
        if text is None or not text.isdecimal():
            raise MloError(
                f"environment variable {name} must be a number, as torchrun sets it, got {text!r}"
            )
        return int(text)

    rank, size = number("RANK"), number("WORLD_SIZE")
    if rank >= size:
        raise MloError(f"RANK must be below WORLD_SIZE, got {rank} and {size}")
    if not environment.get("MASTER_ADDR"):
        raise MloError("environment variable MASTER_ADDR must name a host, as torchrun sets it")
    return Job(
        rank=rank,
        size=size,
        local_rank=number("LOCAL_RANK", str(rank)),
        local_size=number("LOCAL_WORLD_SIZE", str(size)),
        host=environment["MASTER_ADDR"],
        port=number("MASTER_PORT"),
        attempt=number("TORCHELASTIC_RESTART_COUNT", "0"),
        has_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


@contextmanager
def joined(
    device: str | torch.device = "auto", *, patience: float = 5.0, timeout: float = 1800.0
) -> Iterator[DataParallel | None]:
    """Join the processes that ``torchrun`` has started, for the time of a context.

    On the accelerator each process of a host takes the device of its own number, and the backend is
    NCCL; on a CPU it is gloo. When a rank dies or fails, every other one ends within seconds by a
    `ParallelError` that names it, or, where it hangs in an operation that nothing else ends, by the
    same line on the standard error of the lowest rank left.

    Args:
        device: A device, or ``"auto"``: the accelerator if there is one, else the CPU.
        patience: Seconds without a heartbeat after which a rank is taken for dead.
        timeout: Seconds after which an operation fails though all ranks are alive.

    Yields:
        The ranks, or None outside ``torchrun``.

    Raises:
        MloError: If there are more processes than devices, or the environment is not torchrun's.
        ParallelError: If another rank has died or failed.
    """
    job = job_of(os.environ)
    if job is None:
        yield None
        return
    if not patience > 0 or not timeout > 0:
        raise MloError(f"patience and timeout must be > 0 s, got {patience!r} and {timeout!r}")
    own = _device_of(job, device)
    # Keys of its own, as those of a run before, or before a restart, may still be there.
    prefix = f"mlo/{job.attempt}/{next(_joined)}"
    dist.init_process_group(
        # What is exchanged on the host must not wait for the device.
        "gloo" if own.type == "cpu" else "cpu:gloo,cuda:nccl",
        store=PrefixStore(prefix, _client_of(job, timeout)),
        rank=job.rank,
        world_size=job.size,
        timeout=timedelta(seconds=timeout),
    )
    watch = Watch(
        # In a client that is shared, an operation that waits would hold up heartbeats.
        PrefixStore(f"{prefix}/watch", _client_of(job, max(patience, 1.0))),
        job.rank,
        job.size,
        patience=patience,
        ends_idle=own.type != "cpu",
    )
    try:
        with _heeding_sigterm(watch):
            yield DataParallel(device=own, guard=watch)
    except Interrupted:
        # All ranks have been asked to stop after the same round.
        watch.finished()
        raise
    except BaseException as error:
        watch.failed(error)
        raise
    else:
        watch.finished()
    finally:
        # That of an accelerator would wait for a rank that has gone.
        if own.type == "cpu" or not watch.has_fault:
            dist.destroy_process_group()


def _device_of(job: Job, device: str | torch.device) -> torch.device:
    found = resolve(device)
    if found.type == "cpu":
        return found
    if found.type != "cuda":
        raise MloError(f"ranks run on 'cpu' or 'cuda', got device {str(found)!r}")
    count = torch.accelerator.device_count()
    if job.local_size > count:
        raise MloError(
            f"{job.local_size} ranks on one host need {job.local_size} devices, got {count}; start "
            f"torchrun with --nproc-per-node {count}, or use device='cpu'"
        )
    own = torch.device(found.type, job.local_rank)
    torch.accelerator.set_device_index(own)
    return own


def _client_of(job: Job, seconds: float) -> Store:
    """Return a client of the job's store, whose operations may wait so long."""
    if job.rank == 0 and not job.has_store:
        _kept(job.host, job.port)
    return TCPStore(
        job.host,
        job.port,
        is_master=False,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
    )


@functools.cache
def _kept(host: str, port: int) -> Store:
    """Return the store itself, in this process for good: others may use it after the context."""
    return TCPStore(host, port, is_master=True, wait_for_workers=False)


@contextmanager
def _heeding_sigterm(watch: Watch) -> Iterator[None]:
    """Let a SIGTERM wait for what has happened: torchrun sends it when another rank has died."""
    before = signal.getsignal(signal.SIGTERM)
    is_ours = before is signal.SIG_DFL and threading.current_thread() is threading.main_thread()

    def end(number: int, _: object) -> None:
        if watch.is_ending:
            return
        error = watch.found()
        raise error if error is not None else SystemExit(128 + number)

    if is_ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        # A process that ends with the rest still has a line to say.
        if is_ours and not watch.is_ending:
            signal.signal(signal.SIGTERM, before)
