"""Which problems a sweep visits, and in which order: graph theory on names, no tensors."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mlo.errors import GraphError

Edges = Mapping[str, Collection[str]]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The path of a cotangent from one problem's loss back to its own parameters.

    Attributes:
        target: The problem that is differentiated.
        order: Solved problems whose cotangent is asked for; each comes before every problem that
            its solution depends on.
        flows: For each problem between the target's loss and the target, the problems that its
            solution depends on: those that its cotangent is passed on to.
        within: For each of them, the lower problems whose solutions are part of its own objective,
            as in a nested program; each after those that its solution depends on.
    """

    target: str
    order: tuple[str, ...]
    flows: Mapping[str, tuple[str, ...]]
    within: Mapping[str, tuple[str, ...]]


def sweep_of(
    target: str,
    reads: Mapping[str, Collection[str]],
    levels: Mapping[str, int],
    constants: Collection[str],
) -> Sweep:
    """Return the sweep that differentiates `target`, each solved problem once.

    Where a problem `b` reads a lower one `c` that reads `b` in turn, the solution of `c` is part of
    the objective of `b`: what `b` minimises is reduced to ``b ↦ g(b, c*(b))``. The cotangent of `c`
    flows to `b`, and that of `b` to what either reads beside.

    Args:
        target: The problem whose loss is differentiated.
        reads: For each problem, the problems that its loss reads.
        levels: Level of each problem; a problem responds to those above it.
        constants: Problems that are taken as constants.

    Raises:
        GraphError: If the problems in between read each other in a circle that levels do not
            resolve.

    >>> reads = {"t": ["t", "c"], "s": ["s", "t"], "c": ["s", "t"]}
    >>> sweep_of("c", reads, {"t": 0, "s": 1, "c": 2}, ()).order
    ('s', 't')
    >>> nested = {"c": ["c", "b"], "b": ["b", "c", "a"], "a": ["b"]}
    >>> sweep_of("a", nested, {"c": 0, "b": 1, "a": 2}, ()).within
    {'c': (), 'b': ('c',)}
    """
    return _sweep_of(target, reads, levels, constants, {})


def _sweep_of(
    target: str,
    reads: Edges,
    levels: Mapping[str, int],
    constants: Collection[str],
    known: dict[str, Sweep],
) -> Sweep:
    if target in known:
        return known[target]
    lower = [n for n in levels if levels[n] < levels[target] and n not in constants]
    inside = {n: [a for a in reads[n] if a != n and (a in lower or a == target)] for n in lower}
    first = [a for a in reads[target] if a in lower]
    seen = _reachable(first, inside) - {target}
    between = [n for n in lower if n in seen and target in _reachable(inside[n], inside)]
    # A problem's own sweep is made of what its objective contains as solutions.
    within = {
        n: tuple(m for m in _resolved(_sweep_of(n, reads, levels, constants, known)))
        for n in between
    }
    flows = {n: _depends_on(n, within[n], inside, (*between, target)) for n in between}
    # Highest level first wherever the reads leave a choice.
    preferred = sorted(between, key=lambda n: -levels[n])
    order = _topological(preferred, flows)
    if len(order) < len(between):
        raise GraphError(_circle_message(target, flows, between, order))
    asked = _reachable([n for n in first if n in between], flows)
    known[target] = Sweep(
        target=target,
        order=tuple(n for n in order if n in asked),
        flows={n: flows[n] for n in order},
        within={n: within[n] for n in order},
    )
    return known[target]


def _resolved(sweep: Sweep) -> tuple[str, ...]:
    return tuple(reversed(tuple(sweep.flows)))


def _depends_on(
    name: str, within: Collection[str], inside: Edges, among: Collection[str]
) -> tuple[str, ...]:
    """Return what the solution of `name` depends on, once those within it are solved for."""
    own = {name, *within}
    read = dict.fromkeys(a for n in (name, *within) for a in inside[n])
    return tuple(a for a in read if a in among and a not in own)


def _reachable(start: Collection[str], edges: Edges) -> set[str]:
    found: set[str] = set()
    frontier = list(start)
    while frontier:
        node = frontier.pop()
        if node not in found:
            found.add(node)
            frontier.extend(edges.get(node, ()))
    return found


def _topological(nodes: Collection[str], edges: Edges) -> tuple[str, ...]:
    """Order `nodes` so that each precedes what it points to; those in a circle are left out."""
    order: list[str] = []
    remaining = list(nodes)
    while remaining:
        free = [n for n in remaining if not any(n in edges[m] for m in remaining)]
        if not free:
            break
        order.append(free[0])
        remaining.remove(free[0])
    return tuple(order)


def _circle_message(target: str, flows: Edges, between: list[str], done: tuple[str, ...]) -> str:
    stuck = [n for n in between if n not in done]
    circle = _circle(stuck, flows)
    walk = " -> ".join([*circle, circle[0]])
    return (
        f"problem {target!r} cannot be differentiated: the problems below it depend on each other "
        f"in a circle, {walk}, and no level says which is solved within which. If {circle[0]!r} "
        f"and {circle[-1]!r} solve one nested program, give the inner one a lower level; if they "
        "are players of a game, merge them into one problem, stop one loss from reading the other, "
        "or give one of them response=mlo.constant() to drop its path on purpose"
    )


def _circle(stuck: list[str], flows: Edges) -> list[str]:
    """Return one circle among `stuck`, where every node lies on or leads into a circle."""
    walk: list[str] = []
    node = stuck[0]
    # Behind a circle there may be nodes that only hang on it; walk backwards to stay on it.
    while node not in walk:
        walk.append(node)
        node = next(m for m in stuck if node in flows[m])
    return walk[walk.index(node) :][::-1]
