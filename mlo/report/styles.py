"""How series look: colours are named by the page's style sheet, which knows light and dark.

Drawings carry stand-ins that no other part of them uses; `CLASSES` says what each becomes.
"""

from typing import Final

NUM_COLOURS: Final = 8
SERIES: Final = tuple(f"#0000{index:02x}" for index in range(1, NUM_COLOURS + 1))
INK, GRID, CARD = "#0000a0", "#0000b0", "#0000c0"

CLASSES: Final = {
    **{colour: f"c{index}" for index, colour in enumerate(SERIES)},
    INK: "ink",
    GRID: "grid",
    CARD: "card",
}
"""Stand-in to the name of the colour; ``f-NAME`` fills with it, ``s-NAME`` strokes."""

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES: Final = ((), (5.0, 2.0), (2.0, 1.4), (6.0, 1.6, 1.8, 1.6))
MOST: Final = len(SERIES) * len(DASHES)
"""Looks that differ."""


def colour(index: int) -> str:
    """Return the stand-in for the colour of a series."""
    return SERIES[index % len(SERIES)]


def dash(index: int) -> tuple[float, ...]:
    """Return on and off lengths of the line of a series, empty for a solid one."""
    return DASHES[(index + index // len(SERIES)) % len(DASHES)]


def marker(index: int) -> str:
    """Return the marker of a series, as matplotlib names it."""
    return MARKERS[index % len(MARKERS)]
