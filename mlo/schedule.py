"""Who is updated when: a round as a sequence of problem names, no tensors."""

from collections.abc import Iterator, Mapping


def updates_of_round(levels: Mapping[str, int], steps: Mapping[str, int]) -> Iterator[str]:
    """Yield the problems to update in one round, one update of the outermost level.

    Before each update of a level, the level below makes its ``steps`` updates, and so on down.

    >>> list(updates_of_round({"t": 0, "s": 1, "c": 2}, {"t": 2, "s": 1, "c": 1}))
    ['t', 't', 's', 'c']
    >>> list(updates_of_round({"a": 0, "b": 0, "u": 1}, {"a": 2, "b": 1, "u": 1}))
    ['a', 'b', 'a', 'u']
    """
    yield from _block(max(levels.values()), levels, steps)


def _block(level: int, levels: Mapping[str, int], steps: Mapping[str, int]) -> Iterator[str]:
    if level < 0:
        return
    members = [name for name in levels if levels[name] == level]
    for turn in range(max(steps[name] for name in members)):
        yield from _block(level - 1, levels, steps)
        yield from (name for name in members if turn < steps[name])


def updates_per_round(levels: Mapping[str, int], steps: Mapping[str, int]) -> dict[str, int]:
    """Return how often each problem is updated in one round.

    >>> updates_per_round({"t": 0, "s": 1, "c": 2}, {"t": 3, "s": 2, "c": 1})
    {'t': 6, 's': 2, 'c': 1}
    """
    counts: dict[str, int] = {}
    blocks = 1
    for level in range(max(levels.values()), -1, -1):
        members = [name for name in levels if levels[name] == level]
        counts |= {name: blocks * steps[name] for name in members}
        blocks *= max(steps[name] for name in members)
    return {name: counts[name] for name in levels}
