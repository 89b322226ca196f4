"""The simulation: against closed forms, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlo.bench.communication_events import Task, overlapped, simulated
from mlo.bench.programs import BenchmarkError


def bucketed(backward, message, pieces):
    """Return the tasks of a backward pass in equal pieces, each sent when it is done."""
    tasks = []
    for k in range(pieces):
        before = (f"backward {k - 1}",) if k else ()
        share = backward / pieces
        tasks.append(Task(name=f"backward {k}", resource="compute", seconds=share, after=before))
        after = (f"backward {k}",)
        tasks.append(Task(name=f"send {k}", resource="network", seconds=message, after=after))
    return tasks


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(1, 30))
def test_overlap_is_the_closed_form(backward, message, pieces):
    found = simulated(bucketed(backward, message, pieces))
    assert found.seconds == pytest.approx(overlapped(backward, message, pieces))
    assert found.busy == pytest.approx({"compute": backward, "network": pieces * message})


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_a_chain_takes_the_sum(lengths):
    tasks = [
        Task(
            name=str(k),
            resource="compute" if k % 2 else "network",
            seconds=seconds,
            after=(str(k - 1),) if k else (),
        )
        for k, seconds in enumerate(lengths)
    ]
    assert simulated(tasks).seconds == pytest.approx(sum(lengths))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 10)), max_size=20))
def test_what_is_free_takes_as_long_as_the_busiest(work):
    tasks = [Task(name=str(k), resource=r, seconds=s) for k, (r, s) in enumerate(work)]
    found = simulated(tasks)
    assert found.seconds == pytest.approx(max(found.busy.values(), default=0.0))
    assert len(found.ends) == len(tasks)


def test_what_is_ready_first_goes_first():
    tasks = [
        Task(name="long", resource="compute", seconds=5.0),
        Task(name="late", resource="network", seconds=1.0, after=("long",)),
        Task(name="early", resource="network", seconds=9.0),
    ]
    assert simulated(tasks).ends == {"long": 5.0, "early": 9.0, "late": 10.0}


@pytest.mark.parametrize("after", [("b",), ("nobody",)])
def test_tasks_that_never_begin_are_named(after):
    tasks = [
        Task(name="a", resource="compute", seconds=1.0, after=after),
        Task(name="b", resource="compute", seconds=1.0, after=("a",)),
    ]
    with pytest.raises(BenchmarkError, match="'a' never begins"):
        simulated(tasks)
