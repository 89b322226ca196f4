"""Values of unknown shape from JSON as numbers, names and flat mappings."""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from mlo.report.wording import number, shortened

_WORDS: Final = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_NAME: Final = 120
_DEPTH: Final = 6
_ITEMS: Final = 512


def number_of(value: Any) -> float | None:
    """Return a number that a record holds, or None; infinite ones are written as words.

    >>> number_of(2), number_of("-inf"), number_of(True), number_of("2"), number_of(10**400)
    (2.0, -inf, None, None, inf)
    """
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return _WORDS.get(value) if type(value) is str else None


def name_of(value: Any) -> str:
    """Return a name on one line, of bounded length.

    >>> name_of("a  b"), name_of(7)
    ('a b', '7')
    """
    if isinstance(value, str):
        # Longer ones are not worth their memory.
        return _one_line(value) if len(value) <= _NAME else _one_line.__wrapped__(value)
    return _one_line(str(value)) if isinstance(value, int) and abs(value) < 1e18 else ""


@lru_cache(maxsize=4096)
def _one_line(text: str) -> str:
    return " ".join(shortened(text, _NAME).split())


def leaves(value: Any, path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield the scalars within nested mappings and lists, named by the path to them.

    Lists of mappings are left out: they are tables.

    >>> dict(leaves({"loss": {"a": 1.0}, "load": [0.25, 0.75], "note": None}))
    {'loss/a': 1.0, 'load/0': 0.25, 'load/1': 0.75, 'note': None}
    """
    if isinstance(value, Mapping):
        pairs = [(name_of(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        if any(isinstance(item, Mapping) for item in value):
            return
        pairs = [(str(index), item) for index, item in enumerate(value[:_ITEMS])]
    else:
        yield path, value
        return
    if depth:
        for key, item in pairs:
            yield from leaves(item, f"{path}/{key}" if path else key, depth - 1)


def worded(value: Any) -> str:
    """Return how a scalar reads in a table: a dash for nothing.

    >>> worded(None), worded(True), worded(0.25), worded("nan"), worded([1, 2.5])
    ('–', 'yes', '0.25', 'undefined', '1, 2.5')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    quantity = number_of(value)
    if quantity is not None:
        return number(quantity)
    if isinstance(value, list):
        if any(isinstance(item, list | Mapping) for item in value):
            return "…"
        more = ", …" if len(value) > 8 else ""
        return ", ".join(worded(item) for item in value[:8]) + more
    return "…" if isinstance(value, Mapping) else shortened(str(value))
