"""What matplotlib draws, made fit to stand within a page: small, themed, with ids of its own."""

import re
from io import StringIO
from typing import Any, Final
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from mlo.report.styles import CLASSES

_SVG: Final = "{http://www.w3.org/2000/svg}"
_HREF: Final = "{http://www.w3.org/1999/xlink}href"
_DECIMAL: Final = re.compile(r"-?\d+\.\d+")
_REFERENCE: Final = re.compile(r"url\(#([^)]*)\)")
_SIZE: Final = re.compile(r"([\d.]+)px")
_PAINTS: Final = {"fill": "f", "stroke": "s"}
_SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mlo",
    "path.simplify": True,
    "path.simplify_threshold": 0.25,
}


def svg_of(figure: Figure, *, prefix: str, label: str) -> Markup:
    """Return a figure as an ``svg`` element without styles, scripts or references to elsewhere.

    Text stays text; colours become classes (see `styles`); every id begins with `prefix`, so that
    many figures fit into one page.

    Args:
        figure: Drawn with the stand-in colours of `styles`.
        prefix: Unique within the page.
        label: What the picture shows, for those who do not see it.
    """
    stream = StringIO()
    with rc_context(_SETTINGS):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    # The text is that of matplotlib, which escapes what it is given.
    root = ElementTree.fromstring(stream.getvalue())  # noqa: S314
    return markup_of(root, prefix=prefix, label=label)


def markup_of(root: ElementTree.Element, *, prefix: str, label: str) -> Markup:
    """Return a parsed drawing as `svg_of` does."""
    box = root.get("viewBox", "0 0 1 1")
    _strip(root)
    used = _references(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _restyle(element)
        _rename(element, used, prefix)
        _round(element)
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": label, "class": "plot"})
    _flatten(root)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704


def _strip(root: ElementTree.Element) -> None:
    """Remove metadata, style sheets and the space between elements."""
    for element in list(root.iter()):
        for child in list(element):
            if child.tag.endswith(("}metadata", "}style")) or not isinstance(child.tag, str):
                element.remove(child)
        if element.tag != f"{_SVG}text":
            element.text = None
        element.tail = None


def _references(root: ElementTree.Element) -> set[str]:
    found: set[str] = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == _HREF and value.startswith("#"):
                found.add(value[1:])
            found.update(_REFERENCE.findall(value))
    return found


def _restyle(element: ElementTree.Element) -> None:
    """Turn the style attribute, which the page's policy forbids, into attributes and classes."""
    style = element.attrib.pop("style", "")
    classes: list[str] = []
    for declaration in filter(None, map(str.strip, style.split(";"))):
        name, _, value = declaration.partition(":")
        name, value = name.strip(), value.strip()
        if name == "font":
            size = _SIZE.search(value)
            element.set("font-size", size[1] if size else "10")
        elif name in _PAINTS and value in CLASSES:
            classes.append(f"{_PAINTS[name]}-{CLASSES[value]}")
        elif name not in ("stroke-linejoin", "stroke-miterlimit", "stroke-linecap"):
            element.set(name, value)
    if classes:
        element.set("class", " ".join(classes))


def _rename(element: ElementTree.Element, used: set[str], prefix: str) -> None:
    if "id" in element.attrib:
        own = element.attrib.pop("id")
        if own in used:
            element.set("id", f"{prefix}-{own}")
    target = element.attrib.pop(_HREF, None)
    if target is not None:
        element.set("href", f"#{prefix}-{target[1:]}" if target.startswith("#") else target)
    for name, value in element.attrib.items():
        if "url(" in value:
            element.set(name, _REFERENCE.sub(rf"url(#{prefix}-\1)", value))


def _round(element: ElementTree.Element) -> None:
    """Cut coordinates to a hundredth of a point, those of curves to a tenth."""
    for name in ("x", "y", "width", "height", "transform"):
        if name in element.attrib:
            element.set(name, _DECIMAL.sub(lambda match: _short(match, 2), element.attrib[name]))
    path = element.get("d")
    if path is not None:
        digits = 1 if len(path) > 400 else 2
        cut = _DECIMAL.sub(lambda match: _short(match, digits), path)
        element.set("d", " ".join(cut.split()).replace(" L ", "L").replace(" C ", "C"))


def _short(match: re.Match[str], digits: int) -> str:
    text = f"{float(match[0]):.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _flatten(element: ElementTree.Element) -> None:
    """Dissolve groups that say nothing."""
    children: list[ElementTree.Element] = []
    for child in list(element):
        _flatten(child)
        children += list(child) if child.tag == "g" and not child.attrib else [child]
    element[:] = children
