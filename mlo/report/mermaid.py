"""The graph of a program, read back from its Mermaid text."""

import re
from dataclasses import dataclass
from typing import Final

from mlo.report.values import name_of

_LEVEL: Final = re.compile(r"\s*subgraph level_(\d{1,6}) \[.*\]\s*")
_NODE: Final = re.compile(r"\s*(p_\w+)\[\"(.*)\"\]\s*")
_EDGE: Final = re.compile(r"\s*(p_\w+) (-->|-\.->)\|.*\| (p_\w+)\s*")
_NODES, _EDGES = 60, 300


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """A read, or the way of a cotangent in a sweep, by number of the problems."""

    source: int
    target: int
    is_sweep: bool


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Problems with their levels, and the arrows between them.

    Attributes:
        names: Of the problems.
        rows: Numbers of the problems of each level, the lowest level first.
        arrows: From what is read to who reads it; in a sweep from who answers to whom it passes on.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    arrows: tuple[Arrow, ...]

    def sentences(self) -> list[str]:
        """Return what the arrows say, one sentence for each problem that has any."""
        said: list[str] = []
        for number, name in enumerate(self.names):
            reads = [self.names[a.source] for a in self.arrows if self._is_read(a, number)]
            answers = [self.names[a.target] for a in self.arrows if self._is_answer(a, number)]
            parts = [f"reads {_listed(reads)}"] if reads else []
            parts += [f"answers to {_listed(answers)}"] if answers else []
            if parts:
                said.append(f"{name} {', '.join(parts)}")
        return said

    def _is_read(self, arrow: Arrow, reader: int) -> bool:
        return arrow.target == reader and not arrow.is_sweep

    def _is_answer(self, arrow: Arrow, answering: int) -> bool:
        return arrow.source == answering and arrow.is_sweep


def _listed(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def parse(text: str) -> Drawing | None:
    """Return the graph that `mlo.explain.mermaid` wrote, or None where it is none.

    >>> drawing = parse('''flowchart BT
    ...   subgraph level_0 [level 0]
    ...     p_a["a"]
    ...   end
    ...   subgraph level_1 [level 1]
    ...     p_b["b"]
    ...   end
    ...   p_a -->|read by| p_b
    ...   p_a -.->|responds to| p_b''')
    >>> drawing.rows, drawing.sentences()
    (((0,), (1,)), ['a answers to b', 'b reads a'])
    """
    levels: dict[int, list[int]] = {}
    numbers: dict[str, int] = {}
    names: list[str] = []
    arrows: dict[Arrow, None] = {}
    level = 0
    for line in text.splitlines():
        if match := _LEVEL.fullmatch(line):
            level = int(match[1])
        elif (match := _NODE.fullmatch(line)) and match[1] not in numbers:
            numbers[match[1]] = len(names)
            levels.setdefault(level, []).append(len(names))
            names.append(name_of(match[2]))
        elif match := _EDGE.fullmatch(line):
            source, target = numbers.get(match[1]), numbers.get(match[3])
            if source is not None and target is not None and source != target:
                arrows[Arrow(source=source, target=target, is_sweep=match[2] != "-->")] = None
        if len(names) > _NODES or len(arrows) > _EDGES:
            return None
    if not names:
        return None
    return Drawing(
        names=tuple(names),
        rows=tuple(tuple(levels[key]) for key in sorted(levels)),
        arrows=tuple(arrows),
    )
