"""In which order Betty updates problems, and the steps with which `mlo` updates in the same one."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from mlo.errors import GraphError
from mlo.interop.betty.edges import Edges
from mlo.schedule import updates_of_round


@dataclass(frozen=True, kw_only=True)
class Period:
    """What Betty repeats for ever.

    Attributes:
        updates: The problems in the order of their updates.
        iterations: How many of Betty's ``train_iters`` they take.
    """

    updates: tuple[str, ...]
    iterations: int


def period_of(unroll_steps: Mapping[str, int], edges: Edges) -> Period:
    """Return the updates that Betty repeats from the start on.

    In one iteration every problem without lower ones is updated. After ``unroll_steps`` updates a
    problem tells the upper ones, and an upper one is updated once all below it have told.

    >>> period_of({"m": 2, "w": 1}, Edges(downwards={}, upwards={"m": ("w",)}))
    Period(updates=('m', 'm', 'w'), iterations=2)
    """
    ready = {name: dict.fromkeys(edges.below(name), False) for name in unroll_steps}
    counts = dict.fromkeys(unroll_steps, 0)
    updates: list[str] = []

    def step(name: str) -> None:
        if not all(ready[name].values()):
            return
        counts[name] = (counts[name] + 1) % unroll_steps[name]
        updates.append(name)
        if counts[name] == 0:
            for upper in edges.upwards.get(name, ()):
                ready[upper][name] = True
                step(upper)
        ready[name] = dict.fromkeys(ready[name], False)

    def state() -> tuple[object, ...]:
        told = (tuple(told.values()) for told in ready.values())
        return (tuple(counts.values()), *told)

    leaves = [name for name in unroll_steps if not ready[name]]
    seen = {state(): 0}
    history: list[tuple[str, ...]] = []
    while True:
        for leaf in leaves:
            step(leaf)
        history.append(tuple(updates))
        updates.clear()
        length = len(history) - seen.setdefault(state(), len(history))
        if length:
            break
    parts = [n for n in range(1, length + 1) if length % n == 0]
    periods = [
        part for part in parts if all(one == history[n % part] for n, one in enumerate(history))
    ]
    # A problem may start its round already told, but never so that another would be next.
    assert periods, "Betty's order begins otherwise than it goes on"
    repeated = history[: periods[0]]
    return Period(updates=tuple(chain.from_iterable(repeated)), iterations=periods[0])


def steps_of(period: Period, levels: Mapping[str, int]) -> dict[str, int]:
    """Return the steps with which `mlo` makes the same updates in the same order.

    Raises:
        GraphError: If there are none.

    >>> steps_of(Period(updates=("m", "m", "w"), iterations=2), {"m": 0, "w": 1})
    {'m': 2, 'w': 1}
    """
    counts = Counter(period.updates)
    steps: dict[str, int] = {}
    top = max(levels.values())
    blocks = rounds = max(counts[n] for n in levels if levels[n] == top)
    for level in range(top, -1, -1):
        members = [name for name in levels if levels[name] == level]
        steps |= {name: max(1, counts[name] // blocks) for name in members}
        blocks *= max(steps[name] for name in members)
    expected = tuple(updates_of_round(levels, steps)) * rounds
    if expected != period.updates:
        raise GraphError(
            f"Betty updates in the order {_shown(period.updates)}, levels and steps in the order "
            f"{_shown(expected)}; give problems of one level that a common upper one waits for "
            "the same number of steps"
        )
    return {name: steps[name] for name in levels}


def iterations_per_round(steps: Mapping[str, int], levels: Mapping[str, int], edges: Edges) -> int:
    """Return Betty's iterations for one round of `mlo`.

    Raises:
        GraphError: If Betty would update in another order.

    >>> edges = Edges(downwards={}, upwards={"m": ("w",)})
    >>> iterations_per_round({"m": 5, "w": 1}, {"m": 0, "w": 1}, edges)
    5
    """
    period = period_of(steps, edges)
    expected = tuple(updates_of_round(levels, steps))
    if expected != period.updates:
        raise GraphError(
            f"one round is {_shown(expected)}, but Betty would update in the order "
            f"{_shown(period.updates)}; it orders updates by who reads whom, not by levels"
        )
    return period.iterations


def _shown(updates: tuple[str, ...]) -> str:
    return " ".join(updates[:12]) + (" ..." if len(updates) > 12 else "")
