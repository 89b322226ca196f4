"""Legends beside the drawings: their text is the page's own, so it wraps and is found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from mlo.report.drawing import Line, draw_rows, draw_shares
from mlo.report.panels import Panel
from mlo.report.styles import CLASSES, colour, dash, marker

_SHAPES: Final = {
    "o": "M18 2a4 4 0 1 0 .01 0Z",
    "s": "M14.5 2.5h7v7h-7Z",
    "^": "M18 2l4.2 7.6h-8.4Z",
    "D": "M18 1.2l4.8 4.8l-4.8 4.8l-4.8-4.8Z",
    "v": "M18 10l4.2-7.6h-8.4Z",
    "P": "M16.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5Z",
    "X": "M16 2l2 2l2-2l2 2l-2 2l2 2l-2 2l-2-2l-2 2l-2-2l2-2l-2-2Z",
    "p": "M18 1.6l4.4 3.2l-1.7 5.1h-5.4l-1.7-5.1Z",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A sample of a line and its name."""

    swatch: Markup
    label: str


def legend_of(panel: Panel) -> list[Entry]:
    """Return the entries of a panel's legend; empty where there is nothing to tell apart."""
    lines: Sequence[Line] = panel.lines
    if panel.draw is draw_rows or (len(lines) == 1 and not lines[0].label):
        return []
    if panel.draw is draw_shares:
        # In the order in which the areas lie on each other.
        return [Entry(swatch=_area(line.look), label=line.label) for line in reversed(lines)]
    alone = len(lines) == 1
    return [Entry(swatch=_line(line.look, alone=alone), label=line.label) for line in lines]


def _line(look: int, *, alone: bool) -> Markup:
    name = CLASSES[colour(look)]
    dashes = " ".join(f"{1.7 * length:g}" for length in dash(look))
    dashed = Markup(' stroke-dasharray="{}"').format(dashes) if dashes else ""
    shape = (
        "" if alone else Markup('<path class="f-{}" d="{}"/>').format(name, _SHAPES[marker(look)])
    )
    return Markup(
        '<svg class="swatch" viewBox="0 0 36 12" width="36" height="12" aria-hidden="true">'
        '<path class="s-{}" fill="none" stroke-width="2" d="M1 6H35"{}/>{}</svg>'
    ).format(name, dashed, shape)


def _area(look: int) -> Markup:
    return Markup(
        '<svg class="swatch" viewBox="0 0 16 12" width="16" height="12" aria-hidden="true">'
        '<path class="f-{}" fill-opacity=".8" d="M1 0H15V12H1Z"/></svg>'
    ).format(CLASSES[colour(look)])
