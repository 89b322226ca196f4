"""The order of timed actions; how long they take is never tested."""

import gc

import pytest
import torch

from mlo.bench import timing
from mlo.bench.timing import Sampling, against, interleaved

CPU = torch.device("cpu")


@pytest.fixture
def long_enough(monkeypatch):
    """Let every action count as long, so that a sample is one call."""
    monkeypatch.setattr(timing, "SHORTEST_SAMPLE", 0.0)


@pytest.mark.usefixtures("long_enough")
def test_turns_alternate_after_the_warm_up():
    calls = []
    actions = {name: lambda name=name: calls.append(name) for name in "abc"}
    samples = interleaved(
        actions, device=CPU, sampling=Sampling(warmup=1, least=3, most=3, seconds=0.0)
    )
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.usefixtures("long_enough")
@pytest.mark.parametrize(("seconds", "turns"), [(0.0, 2), (60.0, 5)])
def test_it_stops_at_the_limit_but_not_before_the_least(seconds, turns):
    sampling = Sampling(warmup=1, least=2, most=5, seconds=seconds)
    assert len(interleaved({"a": lambda: None}, device=CPU, sampling=sampling)["a"]) == turns


def test_short_actions_are_called_equally_often():
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    interleaved(
        {name: lambda name=name: count(name) for name in calls},
        device=CPU,
        sampling=timing.QUICK,
    )
    assert calls["a"] == calls["b"] > timing.QUICK.warmup + timing.QUICK.most


def test_the_garbage_collector_is_as_before_even_after_an_error():
    calls = []

    def fail_when_timed():
        calls.append(gc.isenabled())
        if not gc.isenabled():
            raise RuntimeError("in a timed call")

    with pytest.raises(RuntimeError, match="in a timed call"):
        interleaved({"a": fail_when_timed}, device=CPU, sampling=timing.QUICK)
    assert calls == [True, False]
    assert gc.isenabled()


def test_ratios_are_taken_pair_by_pair():
    found = against({"base": [1.0, 10.0, 2.0], "other": [3.0, 30.0, 6.0]}, "base")
    assert list(found) == ["other"]
    assert (found["other"].lower, found["other"].median, found["other"].upper) == (3.0, 3.0, 3.0)
