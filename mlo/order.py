"""Which problems a sweep visits, and in which order: graph theory on names, no tensors."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mlo.errors import GraphError


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The path of a cotangent from one problem's loss back to its own parameters.

    Attributes:
        target: The problem that is differentiated.
        order: Solved problems through which the loss depends on the target; each comes before
            every problem that its own loss reads.
        flows: For each of them, the problems that its cotangent is passed on to.
    """

    target: str
    order: tuple[str, ...]
    flows: Mapping[str, tuple[str, ...]]


def sweep_of(
    target: str,
    reads: Mapping[str, Collection[str]],
    levels: Mapping[str, int],
    constants: Collection[str],
) -> Sweep:
    """Return the sweep that differentiates `target`, each solved problem once.

    Args:
        target: The problem whose loss is differentiated.
        reads: For each problem, the problems that its loss reads.
        levels: Level of each problem; a problem responds to those above it.
        constants: Problems that are taken as constants.

    Raises:
        GraphError: If the problems in between read each other in a circle.

    >>> reads = {"t": ["t", "c"], "s": ["s", "t"], "c": ["s", "t"]}
    >>> sweep_of("c", reads, {"t": 0, "s": 1, "c": 2}, ()).order
    ('s', 't')
    """
    lower = [n for n in levels if levels[n] < levels[target] and n not in constants]
    inside = {n: [a for a in reads[n] if a != n and (a in lower or a == target)] for n in lower}
    seen = _reachable([a for a in reads[target] if a in lower], inside) - {target}
    visited = [n for n in lower if n in seen and target in _reachable(inside[n], inside)]
    flows = {n: tuple(a for a in inside[n] if a == target or a in visited) for n in visited}
    # Highest level first wherever the reads leave a choice.
    preferred = sorted(visited, key=lambda n: -levels[n])
    order = _topological(preferred, flows)
    if len(order) < len(visited):
        raise GraphError(_circle_message(target, flows, visited, order))
    return Sweep(target=target, order=order, flows=flows)


def _reachable(start: Collection[str], edges: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    frontier = list(start)
    while frontier:
        node = frontier.pop()
        if node not in found:
            found.add(node)
            frontier.extend(edges.get(node, ()))
    return found


def _topological(nodes: Collection[str], edges: Mapping[str, Collection[str]]) -> tuple[str, ...]:
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


def _circle_message(
    target: str, flows: Mapping[str, Collection[str]], visited: list[str], done: tuple[str, ...]
) -> str:
    stuck = [n for n in visited if n not in done]
    circle = _circle(stuck, flows)
    walk = " -> ".join([*circle, circle[0]])
    return (
        f"problem {target!r} cannot be differentiated: the problems below it read each other in a "
        f"circle, {walk} (each loss reads the next). If {circle[0]!r} and {circle[-1]!r} solve one "
        "nested program, its reduced Hessian would be needed, which the sweep does not compute; "
        "merge them into one problem, stop one loss from reading the other, or give one of them "
        "response=mlo.constant() to drop its path on purpose"
    )


def _circle(stuck: list[str], edges: Mapping[str, Collection[str]]) -> list[str]:
    """Return one circle among `stuck`, where every node lies on or leads into a circle."""
    walk: list[str] = []
    node = stuck[0]
    # Behind a circle there may be nodes that only hang on it; walk backwards to stay on it.
    while node not in walk:
        walk.append(node)
        node = next(m for m in stuck if node in edges[m])
    return walk[walk.index(node) :][::-1]
