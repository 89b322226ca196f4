"""Runs a function on several ranks, each a process of its own, or a job as torchrun would."""

import io
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from mlo.parallel.data_parallel import DataParallel

os.environ.setdefault("OMP_NUM_THREADS", "1")
# One process imports torch, and ranks are forked from it; the one that runs the tests has threads.
_context = multiprocessing.get_context("forkserver")
# Optimizers would import the compiler at their first step.
_context.set_forkserver_preload(["torch", "torch.distributed", "torch._dynamo", "mlo"])


def on_ranks(
    function: Callable[..., Any], size: int, *arguments: Any, seconds: float = 120.0, **options: Any
) -> list[Any]:
    """Return ``function(ranks, *arguments)`` of each of `size` ranks, by rank.

    Args:
        function: A function of a module, as processes find it by its name.
        size: How many ranks.
        *arguments: Plain data and tensors.
        seconds: After these, ranks that have not ended are killed.
        **options: Of `DataParallel`.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(size):
            mine, theirs = _context.Pipe(duplex=False)
            process = _context.Process(
                target=_run,
                args=(theirs, str(Path(folder, "store")), rank, size, options, function, arguments),
            )
            process.start()
            theirs.close()
            ranks.append((process, mine))
        end = time.monotonic() + seconds
        answers = [_answer(mine, end) for _, mine in ranks]
        for process, _ in ranks:
            if any(answer is None for answer in answers):
                process.kill()
            process.join()
            process.close()
    failures = [
        f"rank {rank}: {'no answer' if answer is None else answer[1]}"
        for rank, answer in enumerate(answers)
        if answer is None or not answer[0]
    ]
    assert not failures, "\n".join(failures)
    return [answer[1] for answer in answers if answer is not None]


def _answer(mine: Connection, end: float) -> tuple[bool, Any] | None:
    try:
        if mine.poll(max(0.0, end - time.monotonic())):
            answer: tuple[bool, Any] = torch.load(io.BytesIO(mine.recv_bytes()), weights_only=False)
            return answer
    except EOFError:
        pass
    finally:
        mine.close()
    return None


def _run(
    theirs: Connection,
    store: str,
    rank: int,
    size: int,
    options: dict[str, Any],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    try:
        answer = True, function(DataParallel(**options), *arguments)
    except BaseException:
        answer = False, traceback.format_exc()
    buffer = io.BytesIO()
    torch.save(answer, buffer)
    theirs.send_bytes(buffer.getvalue())
    theirs.close()
    if answer[0]:
        # After a failure the others would be waited for.
        dist.barrier()
        dist.destroy_process_group()


class Ending(NamedTuple):
    """How a process of a job has ended: its exit code, and what it wrote to standard error."""

    code: int | None
    errors: str


def job(
    function: Callable[..., None],
    size: int,
    *arguments: Any,
    seconds: float = 120.0,
    has_store: bool = True,
) -> list[Ending]:
    """Call ``function(*arguments)`` in processes that find the environment of a torchrun job.

    Args:
        function: A function of a module.
        size: How many processes.
        *arguments: Plain data.
        seconds: How long they may take.
        has_store: Whether this process keeps the store, as torchrun does, or rank 0 must.

    Returns:
        How each ended, by rank; those that had not ended after `seconds` have been killed.
    """
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    port = store.port
    if not has_store:
        # The port is free again.
        del store
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(rank)) for rank in range(size)]
        processes = []
        for rank, file in enumerate(files):
            environment = {
                "RANK": rank,
                "WORLD_SIZE": size,
                "LOCAL_RANK": rank,
                "LOCAL_WORLD_SIZE": size,
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
                "TORCHELASTIC_USE_AGENT_STORE": has_store,
            }
            process = _context.Process(
                target=_run_in_job, args=(environment, str(file), function, arguments)
            )
            process.start()
            processes.append(process)
        end = time.monotonic() + seconds
        codes = []
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()
            codes.append(process.exitcode)
            process.close()
        return [Ending(code, file.read_text()) for code, file in zip(codes, files, strict=True)]


def _run_in_job(
    environment: dict[str, Any],
    file: str,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
    function(*arguments)
