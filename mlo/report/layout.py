"""Where the boxes and arrows of a graph's drawing stand: geometry only, one unit a pixel.

Boxes are in rows by level, the lowest at the bottom. Arrows between neighbouring rows run straight;
those that skip a row go round the boxes, reads on the left and sweeps on the right; those within a
row go over it. No arrow passes behind a box.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from mlo.report.mermaid import Arrow, Drawing
from mlo.report.wording import shortened

Point: TypeAlias = tuple[float, float]

HEIGHT: Final = 38.0
_GAP, _BETWEEN, _PADDING, _LETTER, _LANE = 64.0, 44.0, 32.0, 8.4, 20.0
_NAME: Final = 28


class Side(Enum):
    """A side of a box."""

    TOP = "top"
    BOTTOM = "bottom"
    LEFT = "left"
    RIGHT = "right"


@dataclass(eq=False)
class Box:
    """A problem's place: its left upper corner and its width."""

    name: str
    row: int
    left: float
    top: float
    width: float

    @property
    def middle(self) -> float:
        """Horizontal middle."""
        return self.left + self.width / 2


@dataclass(eq=False)
class _End:
    """Where an arrow touches a box; `towards` orders the ends of one side."""

    box: Box
    side: Side
    towards: float
    at: Point = (0.0, 0.0)


@dataclass(eq=False)
class _Plan:
    """The way of an arrow: its ends, gaps between rows that it crosses along, its lane outside."""

    arrow: Arrow
    source: _End
    target: _End
    source_gap: int | None = None
    target_gap: int | None = None
    lane: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """A finished drawing.

    Attributes:
        boxes: By number of the problem.
        ways: The corners of each arrow, from source to target; two where it runs straight.
        left: Smallest coordinate across.
        right: Largest one.
        top: Smallest coordinate down.
        bottom: Largest one.
    """

    boxes: tuple[Box, ...]
    ways: tuple[tuple[Arrow, tuple[Point, ...]], ...]
    left: float
    right: float
    top: float
    bottom: float


def layout(drawing: Drawing) -> Layout:
    """Return where everything stands.

    >>> drawing = Drawing(
    ...     names=("a", "b"), rows=((0,), (1,)), arrows=(Arrow(source=0, target=1, is_sweep=False),)
    ... )
    >>> found = layout(drawing)
    >>> found.boxes[0].top > found.boxes[1].top, len(found.ways[0][1])
    (True, 2)
    """
    boxes = _boxes(drawing)
    planner = _Planner(boxes, drawing)
    plans = [planner.plan(arrow) for arrow in drawing.arrows]
    planner.spread_lanes(plans)
    _spread_ends(plans)
    ways = tuple((plan.arrow, _way(plan, plans, len(drawing.rows))) for plan in plans)
    xs = [x for _, way in ways for x, _ in way] + [b.left for b in boxes]
    xs += [box.left + box.width for box in boxes]
    ys = [y for _, way in ways for _, y in way] + [b.top for b in boxes]
    ys += [box.top + HEIGHT for box in boxes]
    return Layout(
        boxes=tuple(boxes), ways=ways, left=min(xs), right=max(xs), top=min(ys), bottom=max(ys)
    )


def _boxes(drawing: Drawing) -> list[Box]:
    names = [shortened(name, _NAME) for name in drawing.names]
    widths = [max(92.0, _LETTER * len(name) + _PADDING) for name in names]
    spans = [sum(widths[n] for n in row) + _BETWEEN * (len(row) - 1) for row in drawing.rows]
    placed: dict[int, Box] = {}
    for number, (row, span) in enumerate(zip(drawing.rows, spans, strict=True)):
        left = (max(spans) - span) / 2
        top = (len(drawing.rows) - 1 - number) * (HEIGHT + _GAP)
        for member in row:
            placed[member] = Box(names[member], number, left, top, widths[member])
            left += widths[member] + _BETWEEN
    return [placed[number] for number in range(len(names))]


@dataclass(eq=False)
class _Planner:
    boxes: Sequence[Box]
    drawing: Drawing
    _outer: dict[Side, set[int]] = field(init=False)

    def __post_init__(self) -> None:
        rows = self.drawing.rows
        self._outer = {Side.LEFT: {r[0] for r in rows}, Side.RIGHT: {r[-1] for r in rows}}

    def plan(self, arrow: Arrow) -> _Plan:
        source, target = self.boxes[arrow.source], self.boxes[arrow.target]
        rise = target.row - source.row
        if rise == 0:
            return _Plan(
                arrow,
                _End(source, Side.TOP, target.middle),
                _End(target, Side.TOP, source.middle),
                source_gap=source.row,
                target_gap=source.row,
            )
        leaves, enters = (Side.TOP, Side.BOTTOM) if rise > 0 else (Side.BOTTOM, Side.TOP)
        if abs(rise) == 1:
            # Two problems that read each other have parallel arrows: the order is the same below
            # as above, by what the arrow is.
            order = 0.1 * (arrow.is_sweep + 2 * (rise < 0))
            return _Plan(
                arrow,
                _End(source, leaves, target.middle + order),
                _End(target, enters, source.middle + order),
            )
        side = Side.RIGHT if arrow.is_sweep else Side.LEFT
        plan = _Plan(
            arrow,
            self._outside(arrow.source, side, leaves),
            self._outside(arrow.target, side, enters),
        )
        if plan.source.side is leaves:
            plan.source_gap = source.row if rise > 0 else source.row - 1
        if plan.target.side is enters:
            plan.target_gap = target.row - 1 if rise > 0 else target.row
        return plan

    def _outside(self, number: int, side: Side, otherwise: Side) -> _End:
        box = self.boxes[number]
        if number in self._outer[side]:
            return _End(box, side, 0.0)
        return _End(box, otherwise, -1e6 if side is Side.LEFT else 1e6)

    def spread_lanes(self, plans: Sequence[_Plan]) -> None:
        """Give each arrow round the boxes a lane of its own, longer ones further out."""
        edges = {
            False: (min(box.left for box in self.boxes), -1),
            True: (max(box.left + box.width for box in self.boxes), 1),
        }
        for is_sweep, (edge, sign) in edges.items():
            outside = [
                plan
                for plan in plans
                if plan.arrow.is_sweep is is_sweep
                and abs(plan.source.box.row - plan.target.box.row) > 1
            ]
            outside.sort(key=lambda plan: abs(plan.source.box.row - plan.target.box.row))
            for number, plan in enumerate(outside, 1):
                plan.lane = edge + sign * (number * _LANE + 4)
                for end, other in ((plan.source, plan.target), (plan.target, plan.source)):
                    if end.side in (Side.LEFT, Side.RIGHT):
                        # Inner lanes end nearer to where they lead.
                        leads_up = other.box.top < end.box.top
                        end.towards = number if leads_up else -number


def _spread_ends(plans: Sequence[_Plan]) -> None:
    """Spread the ends at one side of a box evenly along it."""
    sides: dict[tuple[int, Side], list[_End]] = {}
    for plan in plans:
        for end in (plan.source, plan.target):
            sides.setdefault((id(end.box), end.side), []).append(end)
    for (_, side), ends in sides.items():
        ends.sort(key=lambda end: end.towards)
        for number, end in enumerate(ends, 1):
            share, box = number / (len(ends) + 1), end.box
            if side in (Side.TOP, Side.BOTTOM):
                y = box.top if side is Side.TOP else box.top + HEIGHT
                end.at = (box.left + share * box.width, y)
            else:
                x = box.left if side is Side.LEFT else box.left + box.width
                end.at = (x, box.top + share * HEIGHT)


def _way(plan: _Plan, plans: Sequence[_Plan], num_rows: int) -> tuple[Point, ...]:
    start, end = plan.source.at, plan.target.at
    if plan.lane is None and plan.source_gap is None:
        return (start, end)
    way = [start]
    x, y = start
    if plan.source_gap is not None:
        y = _height(plan, plan.source_gap, plans, num_rows)
        way.append((x, y))
    if plan.lane is not None:
        way.append((plan.lane, y))
        y = end[1]
    if plan.target_gap is not None:
        y = _height(plan, plan.target_gap, plans, num_rows)
    if plan.lane is not None:
        way.append((plan.lane, y))
    if plan.target_gap is not None:
        way.append((end[0], y))
    way.append(end)
    return tuple(way)


def _height(plan: _Plan, gap: int, plans: Sequence[_Plan], num_rows: int) -> float:
    """Return where an arrow runs along a gap: each at a height of its own."""
    along = [p for p in plans if gap in (p.source_gap, p.target_gap)]
    share = (along.index(plan) + 1) / (len(along) + 1)
    top_of_row = (num_rows - 1 - gap) * (HEIGHT + _GAP)
    return top_of_row - _GAP * share
