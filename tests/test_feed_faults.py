"""What a feed makes of loaders that fail."""

import gc
import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from mlo import BatchError, CheckpointError
from mlo.feed import Feed
from mlo.loader_workers import described, started

CPU = torch.device("cpu")


class UnreadableError(RuntimeError):
    """An error that takes two arguments, as those of image libraries do."""

    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}\nand a second line")


def fails(row):
    raise {
        3: ValueError("row 3 is broken\nand a second line"),
        5: KeyError("column"),
        7: UnreadableError("7.png", "truncated"),
        9: AssertionError(),
    }[row]


class Rows(Dataset):
    """Ten rows, of which some cannot be read."""

    def __init__(self, *broken, how=fails):
        self.broken = broken
        self.how = how

    def __len__(self):
        return 10

    def __getitem__(self, row):
        if row in self.broken:
            self.how(row)
        return row


def feed_of(*broken, how=fails, **options):
    return Feed("x", DataLoader(Rows(*broken, how=how), batch_size=2, **options), CPU)


def drawn(feed, count):
    """Return batches, or the messages of errors in their place."""
    found = []
    for _ in range(count):
        try:
            found.append(feed.draw().tolist())
        except BatchError as error:
            found.append(str(error))
    assert not [message for message in faults_in(found) if "\n" in message]
    return found


def faults_in(found):
    return [message for message in found if isinstance(message, str)]


def test_a_row_that_cannot_be_read_is_named_and_the_next_batch_comes():
    assert drawn(feed_of(3, 5), 6) == [
        [0, 1],
        "problem 'x': batch 2 of epoch 1 could not be loaded: ValueError: row 3 is broken",
        "problem 'x': batch 3 of epoch 1 could not be loaded: KeyError: 'column'",
        [6, 7],
        [8, 9],
        [0, 1],
    ]


def test_a_row_that_a_worker_cannot_read_is_named_and_the_next_batch_comes():
    found = drawn(feed_of(3, 5, 7, 9, num_workers=2), 6)
    where = "(in DataLoader worker process"
    assert found == [
        [0, 1],
        "problem 'x': batch 2 of epoch 1 could not be loaded: ValueError: row 3 is broken "
        f"{where} 1)",
        f"problem 'x': batch 3 of epoch 1 could not be loaded: KeyError: 'column' {where} 0)",
        "problem 'x': batch 4 of epoch 1 could not be loaded: UnreadableError: 7.png: truncated "
        f"{where} 1)",
        f"problem 'x': batch 5 of epoch 1 could not be loaded: AssertionError {where} 0)",
        [0, 1],
    ]


def test_the_original_error_is_the_cause():
    feed = feed_of(1)
    feed._source.batches.dataset.how = lambda row: 1 / 0
    with pytest.raises(BatchError, match="ZeroDivisionError: division by zero") as caught:
        feed.draw()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def collate(batch):
    if 4 in batch:
        raise TypeError("rows of different sizes")
    return torch.tensor(batch)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_collate_function_that_fails_is_named(workers):
    found = drawn(feed_of(collate_fn=collate, num_workers=workers), 4)
    assert found[2].startswith(
        "problem 'x': batch 3 of epoch 1 could not be loaded: TypeError: rows of different sizes"
    )
    assert found[3] == [6, 7]


class BrokenSampler:
    def __iter__(self):
        yield [0, 1]
        yield [2, 3]
        raise LookupError("no more rows")


def test_a_sampler_that_fails_ends_the_epoch():
    loader = DataLoader(Rows(), batch_sampler=BrokenSampler())
    assert drawn(Feed("x", loader, CPU), 4) == [
        [0, 1],
        [2, 3],
        "problem 'x': batch 3 of epoch 1 could not be loaded: LookupError: no more rows",
        [0, 1],
    ]


def test_a_sampler_that_fails_while_workers_are_given_rows_ends_the_epoch():
    loader = DataLoader(Rows(), batch_sampler=BrokenSampler(), num_workers=1)
    feed = Feed("x", loader, CPU)
    for _ in range(2):
        # They are given rows ahead of time.
        with pytest.raises(BatchError, match=r"batch 1 of epoch 1 .* LookupError: no more rows"):
            feed.draw()


class BrokenStream(IterableDataset):
    def __iter__(self):
        yield 0
        yield 1
        raise OSError(5, "Input/output error", "/data/shard-7.tar")


def test_a_stream_that_fails_ends_the_epoch():
    loader = DataLoader(BrokenStream(), batch_size=1)
    reason = "OSError: [Errno 5] Input/output error: '/data/shard-7.tar'"
    assert drawn(Feed("x", loader, CPU), 6) == [
        [0],
        [1],
        f"problem 'x': batch 3 of epoch 1 could not be loaded: {reason}",
        [0],
        [1],
        f"problem 'x': batch 3 of epoch 2 could not be loaded: {reason}",
    ]


class BrokenAtOnce:
    def __iter__(self):
        raise PermissionError("no access")


def test_a_loader_that_cannot_be_begun_is_named_each_time():
    feed = Feed("x", BrokenAtOnce(), CPU)
    message = "problem 'x': batch 1 of epoch 1 could not be loaded: PermissionError: no access"
    assert drawn(feed, 2) == [message, message]
    with pytest.raises(BatchError, match="no access"):
        feed.check()


def interrupts(row):
    raise KeyboardInterrupt


def test_an_interruption_passes_through():
    feed = feed_of(2, how=interrupts)
    feed.draw()
    with pytest.raises(KeyboardInterrupt):
        feed.draw()
    assert drawn(feed, 1) == [[4, 5]]


def exits(row):
    if get_worker_info() is not None:
        os._exit(7)


def is_killed(row):
    if get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "reason"), [(exits, "exit code 7"), (is_killed, "killed by signal: Killed")]
)
def test_a_worker_that_dies_is_reported_and_a_new_epoch_begins(how, reason):
    feed = feed_of(6, how=how, num_workers=2)
    found = []
    for _ in range(2):
        start = len(found)
        while len(faults_in(found[start:])) == 0:
            found += drawn(feed, 1)
        # It may die ahead of its turn; the batches before are those of a fresh epoch.
        number = len(found) - start
        assert found[start:-1] == [[0, 1], [2, 3], [4, 5]][: number - 1]
        assert found[-1].startswith(
            f"problem 'x': batch {number} of epoch 1 could not be loaded: RuntimeError: DataLoader "
            "worker (pid "
        )
        assert reason in found[-1]
        assert found[-1].endswith("; the next one will begin a new epoch")


def test_kept_workers_that_die_are_replaced(tmp_path):
    once = tmp_path / "died"

    def dies_once(row):
        if not once.exists():
            once.touch()
            os._exit(7)

    feed = feed_of(4, how=dies_once, num_workers=1, persistent_workers=True, prefetch_factor=1)
    found = []
    while not faults_in(found):
        found += drawn(feed, 1)
    assert "exit code 7" in found[-1]
    assert drawn(feed, 6) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [0, 1]]


def hangs(row):
    time.sleep(60)


@pytest.mark.slow
def test_a_worker_that_takes_too_long_is_reported():
    feed = feed_of(2, how=hangs, num_workers=1, timeout=1)
    found = drawn(feed, 2)
    assert found[0] == [0, 1]
    assert found[1] == (
        "problem 'x': batch 2 of epoch 1 could not be loaded: RuntimeError: DataLoader timed out "
        "after 1 seconds; the next one will begin a new epoch"
    )


def test_ctrl_c_does_not_end_workers():
    feed = feed_of(num_workers=2)
    feed.draw()
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    assert drawn(feed, 5) == [[2, 3], [4, 5], [6, 7], [8, 9], [0, 1]]


def test_ctrl_c_while_workers_start_reaches_this_process_a_moment_later():
    after = []

    def start():
        with started(DataLoader(Rows(), num_workers=1)):
            signal.raise_signal(signal.SIGINT)
            after.append("workers")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert after == ["workers"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_fault_keeps_no_workers_alive():
    feed = feed_of(3, num_workers=1)
    assert len(faults_in(drawn(feed, 2))) == 1
    gc.disable()
    try:
        del feed
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_position_after_a_fault_is_resumed(workers):
    feed = feed_of(3, num_workers=workers)
    drawn(feed, 3)
    state = feed.state_dict()
    again = feed_of(3, num_workers=workers)
    again.load_state_dict(state)
    assert drawn(again, 3) == drawn(feed, 3) == [[6, 7], [8, 9], [0, 1]]


def test_a_fault_that_ends_the_epoch_before_the_position_is_named():
    class Stream(IterableDataset):
        def __init__(self, length):
            self.length = length

        def __iter__(self):
            yield from range(self.length)
            raise OSError("disk is gone")

    feed = Feed("x", DataLoader(Stream(5), batch_size=1), CPU)
    drawn(feed, 4)
    again = Feed("x", DataLoader(Stream(2), batch_size=1), CPU)
    with pytest.raises(CheckpointError, match=r"problem 'x': 4 batches .* OSError: disk is gone"):
        again.load_state_dict(feed.state_dict())


def test_workers_that_die_while_a_position_is_sought_are_named():
    feed = feed_of(num_workers=1)
    drawn(feed, 4)
    again = feed_of(2, how=exits, num_workers=1)
    with pytest.raises(CheckpointError, match=r"its batches cannot be loaded again: .*exit code 7"):
        again.load_state_dict(feed.state_dict())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("  one\ntwo"), "ValueError: one"),
        (ValueError(""), "ValueError"),
        (RuntimeError("Caught something"), "RuntimeError: Caught something"),
    ],
)
def test_an_error_is_described_in_a_line(error, text):
    assert described(error) == text
