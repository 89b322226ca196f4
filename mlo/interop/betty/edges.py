"""Betty's two dictionaries of edges against what `mlo` losses read: names only, no tensors.

An edge is a read. ``u2l[U]`` lists the lower problems whose loss reads U, ``l2u[L]`` the upper
problems whose loss reads L. Betty differentiates along every walk that takes one ``u2l`` edge down
and ``l2u`` edges back up, and updates a problem once all that ``l2u`` leads to it from are done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlo.errors import GraphError
from mlo.graph import Graph


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Betty's dependencies by problem name.

    Attributes:
        downwards: ``u2l``: for each problem, the lower problems that read it.
        upwards: ``l2u``: for each problem, the upper problems that read it.
    """

    downwards: Mapping[str, tuple[str, ...]]
    upwards: Mapping[str, tuple[str, ...]]

    def below(self, name: str) -> tuple[str, ...]:
        """Return the problems that ``l2u`` leads from to `name`."""
        return tuple(lower for lower, uppers in self.upwards.items() if name in uppers)

    def reads(self, name: str) -> tuple[str, ...]:
        """Return what the loss of `name` reads according to the edges, itself first.

        >>> Edges(downwards={"w": ("m",)}, upwards={"m": ("w",)}).reads("m")
        ('m', 'w')
        """
        above = (upper for upper, lowers in self.downwards.items() if name in lowers)
        return tuple(dict.fromkeys((name, *self.below(name), *above)))


def edges_of(graph: Graph) -> Edges:
    """Return the edges with which Betty's paths are the sweeps of `graph`.

    Raises:
        GraphError: If Betty would drop a path, as it does for nested problems.

    >>> from torch import nn
    >>> from mlo.problem import Problem
    >>> graph = Graph(
    ...     Problem(name="m", module=nn.Linear(1, 1), loss=lambda m, w: m.weight @ w.weight),
    ...     Problem(name="w", module=nn.Linear(1, 1), loss=lambda m: m.weight.sum()),
    ... )
    >>> edges_of(graph)
    Edges(downwards={'w': ('m',)}, upwards={'m': ('w',)})
    """
    solved = {name for sweep in graph.sweeps.values() for name in sweep.order}
    downwards: dict[str, list[str]] = {name: [] for name in graph.problems}
    upwards: dict[str, list[str]] = {name: [] for name in graph.problems}
    for target, sweep in graph.sweeps.items():
        if sweep.order and target in solved:
            raise GraphError(
                f"problem {target!r} is solved below another and differentiates through "
                f"{sweep.order} itself; Betty builds no path through such nested problems"
            )
        for name in sweep.order:
            for above in sweep.flows[name]:
                if above == target:
                    downwards[target].append(name)
                elif graph.levels[above] >= graph.levels[name]:
                    raise GraphError(
                        f"the gradient of {target!r} goes from {name!r} on to {above!r}, which is "
                        f"not below {name!r}; Betty builds no such path and would drop it silently"
                    )
    # Betty tells uppers in this order. Were the highest told last, after a lower one has already
    # set it off, it would begin its next round told.
    for name in sorted(graph.problems, key=lambda n: -graph.levels[n]):
        # An edge into a constant would open the path that the constant is there to close.
        if graph.response(name).differentiates:
            for lower in graph.reads(name):
                if graph.levels[lower] < graph.levels[name]:
                    upwards[lower].append(name)
    return Edges(downwards=_without_empty(downwards), upwards=_without_empty(upwards))


def levels_of(names: Iterable[str], edges: Edges) -> dict[str, int]:
    """Return the level of each problem: the longest walk of ``l2u`` edges that leads to it.

    Raises:
        GraphError: If ``l2u`` leads in a circle.

    >>> levels_of(["c", "t", "s"], Edges(downwards={}, upwards={"t": ("s", "c"), "s": ("c",)}))
    {'t': 0, 's': 1, 'c': 2}
    """
    levels: dict[str, int] = {}
    remaining = list(names)
    while remaining:
        free = [n for n in remaining if all(lower in levels for lower in edges.below(n))]
        if not free:
            raise GraphError(
                f"l2u leads in a circle, {' -> '.join(_circle(remaining, edges))}; Betty would run "
                "nothing. An edge of l2u leads from a problem to one of a higher level"
            )
        for name in free:
            levels[name] = 1 + max((levels[lower] for lower in edges.below(name)), default=-1)
        remaining = [n for n in remaining if n not in levels]
    return levels


def check(names: Iterable[str], edges: Edges) -> None:
    """Refuse edges with which a part of the program could never work.

    Raises:
        GraphError: If a problem has no edge beside others, or a ``u2l`` edge has no way back.
    """
    known = tuple(names)
    linked = {*edges.downwards, *edges.upwards}
    for ends in (*edges.downwards.values(), *edges.upwards.values()):
        linked.update(ends)
    for name in known:
        if name not in linked and len(known) > 1:
            raise GraphError(
                f"problem {name!r} appears in no edge of u2l or l2u, so it has nothing to do with "
                f"the others {tuple(n for n in known if n != name)}; add its edges or leave it out"
            )
    for upper, lowers in edges.downwards.items():
        for lower in lowers:
            if upper not in _reached(lower, edges):
                raise GraphError(
                    f"u2l leads from {upper!r} to {lower!r}, but no l2u edges lead from {lower!r} "
                    f"back to {upper!r}, so that {upper!r} would have no gradient through it; add "
                    f"{lower!r} -> {upper!r} to l2u if the loss of {upper!r} reads {lower!r}"
                )


def _reached(start: str, edges: Edges) -> set[str]:
    found: set[str] = set()
    frontier = [start]
    while frontier:
        for upper in edges.upwards.get(frontier.pop(), ()):
            if upper not in found:
                found.add(upper)
                frontier.append(upper)
    return found


def _circle(stuck: list[str], edges: Edges) -> list[str]:
    walk = [stuck[0]]
    while walk[-1] not in walk[:-1]:
        walk.append(next(lower for lower in edges.below(walk[-1]) if lower in stuck))
    return walk[walk.index(walk[-1]) :][::-1]


def _without_empty(edges: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(dict.fromkeys(ends)) for name, ends in edges.items() if ends}
