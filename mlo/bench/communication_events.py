"""A simulation of tasks that wait for each other and for what they run on: no clock, no chance."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from mlo.bench.programs import BenchmarkError


@dataclass(frozen=True, kw_only=True)
class Task:
    """A piece of work.

    Attributes:
        name: Its own, once among all tasks.
        resource: What does it, one task at a time.
        seconds: How long it takes.
        after: Tasks that must have ended.
    """

    name: str
    resource: str
    seconds: float
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When what was done.

    Attributes:
        ends: When each task ended, by name, in the order in which they did.
        busy: How long each resource worked.
    """

    ends: dict[str, float]
    busy: dict[str, float]

    @property
    def seconds(self) -> float:
        """When the last task ended."""
        return max(self.ends.values(), default=0.0)


def simulated(tasks: Sequence[Task]) -> Timeline:
    """Return when tasks end: each resource takes what is ready first, the first given of equals.

    Raises:
        BenchmarkError: If tasks wait for each other, or for one that there is not.

    >>> simulated([
    ...     Task(name="a", resource="compute", seconds=2.0),
    ...     Task(name="b", resource="compute", seconds=3.0),
    ...     Task(name="send a", resource="network", seconds=4.0, after=("a",)),
    ... ]).ends
    {'a': 2.0, 'b': 5.0, 'send a': 6.0}
    """
    place = {task.name: position for position, task in enumerate(tasks)}
    waiting = {task.name: len(task.after) for task in tasks}
    followers: dict[str, list[Task]] = {}
    for task in tasks:
        for name in task.after:
            followers.setdefault(name, []).append(task)
    ready: dict[str, list[tuple[float, int, Task]]] = {task.resource: [] for task in tasks}
    busy = dict.fromkeys(ready, 0.0)
    running: list[tuple[float, int, Task]] = []
    idle = set(ready)
    ends: dict[str, float] = {}
    for task in tasks:
        if not task.after:
            heapq.heappush(ready[task.resource], (0.0, place[task.name], task))
    now = 0.0
    while True:
        for resource in [name for name in ready if name in idle and ready[name]]:
            _, position, task = heapq.heappop(ready[resource])
            idle.discard(resource)
            busy[resource] += task.seconds
            heapq.heappush(running, (now + task.seconds, position, task))
        if not running:
            break
        now, _, done = heapq.heappop(running)
        ends[done.name] = now
        idle.add(done.resource)
        for task in followers.get(done.name, []):
            waiting[task.name] -= 1
            if not waiting[task.name]:
                heapq.heappush(ready[task.resource], (now, place[task.name], task))
    if len(ends) < len(tasks):
        stuck = next(task.name for task in tasks if task.name not in ends)
        raise BenchmarkError(f"task {stuck!r} never begins: what it waits for does not end")
    return Timeline(ends=ends, busy=busy)


def overlapped(backward: float, message: float, pieces: int) -> float:
    """Return when equal messages have been sent of which each follows its share of a backward pass.

    The last message alone is left over where the network keeps up; where it does not, all but the
    first share of the backward pass is hidden:
    ``max(backward + message, backward / pieces + pieces · message)``.

    >>> overlapped(4.0, 0.5, 4), overlapped(4.0, 2.0, 4)
    (4.5, 9.0)
    """
    return max(backward + message, backward / pieces + pieces * message)
