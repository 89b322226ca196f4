"""The order of calls to torch, with torch replaced: what they do is tested on a GPU."""

import sys
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from mlo.replay.capture import Capture, CudaCapture
from tests.replay.recording import Recording


class Log(list):
    """Notes what is called in which order."""

    def stream(self, name):
        return _Stream(self, name)


class _Stream:
    def __init__(self, log, name):
        self._log, self._name, self.device = log, name, torch.device("cuda", 0)

    def __repr__(self):
        return self._name

    def wait_stream(self, other):
        self._log.append(f"{self} waits for {other}")


@pytest.fixture
def log(monkeypatch):
    log = Log()

    class Graph:
        def replay(self):
            log.append("replay")

    @contextmanager
    def entered(what):
        log.append(f"enter {what}")
        try:
            yield
        finally:
            log.append(f"leave {what}")

    def set_mode(mode):
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        log.append(f"synchronisation {mode}")

    module = torch.cuda
    monkeypatch.setattr(
        torch,
        "get_device_module",
        lambda device: SimpleNamespace(Stream=lambda device: log.stream("side")),
    )
    monkeypatch.setattr(module, "current_stream", lambda device: log.stream("current"))
    monkeypatch.setattr(module, "stream", lambda stream: entered(stream))
    monkeypatch.setattr(module, "CUDAGraph", Graph)
    monkeypatch.setattr(
        module,
        "graph",
        lambda graph, stream, capture_error_mode: entered(f"{capture_error_mode} graph {stream}"),
    )
    monkeypatch.setattr(module, "get_sync_debug_mode", lambda: 1)
    monkeypatch.setattr(module, "set_sync_debug_mode", set_mode)
    return log


CUDA = torch.device("cuda")
WARM_UP = ["side waits for current", "enter side", "run", "leave side", "current waits for side"]


def test_what_captures_fits_the_protocol(log):
    assert isinstance(CudaCapture(CUDA), Capture)
    assert isinstance(Recording(), Capture)
    assert not isinstance(sys, Capture)


def test_warming_up_waits_before_and_is_waited_for(log):
    CudaCapture(CUDA).warm_up(lambda: log.append("run"))
    assert log == WARM_UP


def test_a_rehearsal_makes_synchronisations_errors_and_no_longer(log):
    CudaCapture(CUDA).rehearse(lambda: log.append("run"))
    assert log == ["synchronisation 2", *WARM_UP, "synchronisation 1"]


def test_a_rehearsal_that_fails_restores_the_mode(log):
    def fails():
        raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        CudaCapture(CUDA).rehearse(fails)
    assert log[-1] == "synchronisation 1"


def test_a_recording_is_made_on_the_side_stream_and_launched_by_the_caller(log):
    launch = CudaCapture(CUDA).record(lambda: log.append("run"))
    recorded = ["enter thread_local graph side", "run", "leave thread_local graph side"]
    assert log == recorded
    launch()
    launch()
    assert log == [*recorded, "replay", "replay"]
