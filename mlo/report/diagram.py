"""A graph as a drawing: boxes by level, solid arrows for reads, dotted ones for sweeps."""

from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from mlo.report.layout import HEIGHT, Layout, Point, layout
from mlo.report.mermaid import Drawing

_ROUND, _TIP, _EDGE, _LEVEL = 10.0, 7.0, 10.0, 58.0


def diagram(drawing: Drawing) -> Markup:
    """Return a drawing as an ``svg`` element; problems of one level stand on one band."""
    found = layout(drawing)
    left, top = found.left - _EDGE - _LEVEL, found.top - _EDGE
    width, height = found.right + _EDGE - left, found.bottom + _EDGE - top
    root = ElementTree.Element(
        "svg",
        {
            "viewBox": f"{left:.0f} {top:.0f} {width:.0f} {height:.0f}",
            "width": f"{width:.0f}",
            "height": f"{height:.0f}",
            "role": "img",
            "aria-label": "; ".join(drawing.sentences()) or "problems that read nothing",
            "class": "diagram",
        },
    )
    _add_levels(root, found, left, width)
    for arrow, way in found.ways:
        _add_arrow(root, way, "sweep" if arrow.is_sweep else "read")
    for box in found.boxes:
        _add(root, "rect", "box", x=box.left, y=box.top, width=box.width, height=HEIGHT, rx=7)
        _add_text(root, "name", box.name, box.middle, box.top + HEIGHT / 2)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704


def _add_levels(root: ElementTree.Element, found: Layout, left: float, width: float) -> None:
    for row in sorted({box.row for box in found.boxes}):
        top = next(box.top for box in found.boxes if box.row == row)
        _add(root, "rect", "band", x=left, y=top - 5, width=width, height=HEIGHT + 10, rx=6)
        _add_text(root, "level", f"level {row}", left + _LEVEL / 2 + 2, top + HEIGHT / 2)


def _add_arrow(root: ElementTree.Element, way: Sequence[Point], kind: str) -> None:
    (x, y), (end_x, end_y) = way[-2], way[-1]
    if len(way) == 2:
        # It leaves and enters upright, so that its tip points into the box.
        x, y = end_x, end_y + (20 if y > end_y else -20)
    length = max(abs(end_x - x), abs(end_y - y)) or 1.0
    across, down = (end_x - x) / length, (end_y - y) / length
    base = (end_x - _TIP * across, end_y - _TIP * down)
    path = _curve(way[0], base) if len(way) == 2 else _rounded([*way[:-1], base])
    _add(root, "path", kind, d=path)
    half = 0.55 * _TIP
    corners = [
        (end_x, end_y),
        (base[0] - half * down, base[1] + half * across),
        (base[0] + half * down, base[1] - half * across),
    ]
    _add(root, "path", f"{kind}-tip", d=f"M{' L'.join(map(_pair, corners))}Z")


def _curve(start: Point, end: Point) -> str:
    middle = (start[1] + end[1]) / 2
    return f"M{_pair(start)} C{_pair((start[0], middle))} {_pair((end[0], middle))} {_pair(end)}"


def _rounded(way: Sequence[Point]) -> str:
    """Return a path along corners that are rounded as far as their sides allow."""
    parts = [f"M{_pair(way[0])}"]
    for before, corner, after in zip(way, way[1:], way[2:], strict=False):
        parts.append(f"L{_pair(_towards(corner, before))}")
        parts.append(f"Q{_pair(corner)} {_pair(_towards(corner, after))}")
    return " ".join([*parts, f"L{_pair(way[-1])}"])


def _towards(corner: Point, other: Point) -> Point:
    across, down = other[0] - corner[0], other[1] - corner[1]
    length = (across**2 + down**2) ** 0.5
    share = min(_ROUND, length / 2) / length if length else 0.0
    return corner[0] + share * across, corner[1] + share * down


def _add(root: ElementTree.Element, tag: str, kind: str, **attributes: float | str) -> None:
    texts = {k: v if isinstance(v, str) else f"{v:.1f}" for k, v in attributes.items()}
    ElementTree.SubElement(root, tag, {"class": kind, **texts})


def _add_text(root: ElementTree.Element, kind: str, text: str, x: float, y: float) -> None:
    element = ElementTree.SubElement(
        root,
        "text",
        {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": "middle", "dy": "0.35em"},
    )
    element.text = text


def _pair(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
