import json
import threading
import time

import pytest
import torch.distributed as dist

from mlo.parallel import watch as module
from mlo.parallel.failure import ParallelError
from mlo.parallel.watch import Watch, _Listener

PATIENCE = 0.5


@pytest.fixture
def store():
    return dist.HashStore()


def fail():
    raise RuntimeError("Connection closed by peer")


def stop(*watches):
    for each in watches:
        each._stop()


def test_operations_of_ranks_that_live_just_run(store):
    first, second = (Watch(store, rank, 2, patience=PATIENCE) for rank in range(2))
    assert first.run(lambda: "done") == "done"
    finishing = threading.Thread(target=second.finished)
    finishing.start()
    first.finished()
    finishing.join()
    assert not first.has_fault
    assert not first.is_ending


def test_the_rank_that_falls_silent_is_to_blame(store):
    watches = [Watch(store, rank, 3, patience=PATIENCE) for rank in range(3)]
    stop(watches[1])
    watches[2].where = "in round 7"
    with pytest.raises(ParallelError) as caught:
        watches[2].run(fail)
    assert str(caught.value) == "rank 1 died (no heartbeat for 0.5 s) in round 7"
    assert caught.value.ranks == (1,)
    assert not caught.value.speaks
    # The others say the same, whether an operation of theirs fails or not.
    while not watches[0].has_fault:
        time.sleep(0.01)
    with pytest.raises(ParallelError, match="rank 1 died") as caught:
        watches[0].run(lambda: "not done")
    assert caught.value.speaks
    stop(watches[0], watches[2])


def test_last_words_come_at_once(store):
    first, second = (Watch(store, rank, 2, patience=30.0) for rank in range(2))
    second.failed(ValueError("bad rate\nwith more to say"))
    with pytest.raises(ParallelError, match=r"^rank 1 failed: bad rate$"):
        first.run(fail)
    stop(first)


def test_the_first_fault_is_the_one_that_is_told(store):
    first, second = (Watch(store, rank, 2, patience=30.0) for rank in range(2))
    second.failed(ValueError("cause"))
    first.failed(ValueError("consequence"))
    assert json.loads(store.get("fault")) == {"1": "failed: cause"}


def test_an_operation_may_fail_though_all_ranks_live(store):
    first, second = (Watch(store, rank, 2, patience=PATIENCE) for rank in range(2))
    expected = "^rank 0 failed: an operation between ranks: Connection closed by peer$"
    with pytest.raises(ParallelError, match=expected) as caught:
        first.run(fail)
    assert not caught.value.speaks
    with pytest.raises(ParallelError, match=expected) as caught:
        second.run(fail)
    assert caught.value.speaks
    stop(first, second)


def test_a_rank_that_has_finished_is_not_dead(store):
    first, second = (Watch(store, rank, 2, patience=PATIENCE) for rank in range(2))
    store.set("done/1", "1")
    stop(second)
    time.sleep(3 * PATIENCE)
    assert first.run(lambda: "alive") == "alive"
    stop(first)


def test_a_process_that_hangs_in_an_operation_is_ended(store, monkeypatch, capsys):
    ended = threading.Event()
    monkeypatch.setattr(module.os, "_exit", lambda code: ended.set() if code == 1 else None)
    first, second = (Watch(store, rank, 2, patience=PATIENCE) for rank in range(2))
    stop(second)
    while not first.has_fault:
        time.sleep(0.01)
    # As long as it is in no operation it may be about to save its state.
    time.sleep(2 * PATIENCE)
    assert not ended.is_set()
    first._waiting += 1
    assert ended.wait(20)
    assert capsys.readouterr().err.startswith("mlo: error: rank 1 died (no heartbeat for 0.5 s)\n")
    stop(first)


def test_a_process_that_was_stopped_itself_blames_nobody(monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    listener = _Listener({1, 2})
    for now in (1.0, 2.0, 3.0, 4.0):  # read by the clock
        assert listener.silent({1: "a", 2: str(now)}, 3.5) == []
    now = 5.0
    assert listener.silent({1: "a", 2: "5"}, 3.5) == [1]
    now = 100.0
    assert listener.silent({1: "a", 2: "5"}, 3.5) == []
    now = 101.0
    assert listener.silent({1: "b", 2: "5"}, 3.5) == []
    for now in (102.0, 103.0, 104.0):
        listener.silent({1: str(now), 2: "5"}, 3.5)
    assert listener.silent({1: "c", 2: "5"}, 3.5) == [2]
