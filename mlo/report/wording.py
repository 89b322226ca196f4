"""Numbers, times and foreign text as they stand on the page."""

import math
import re
from datetime import datetime
from typing import Final

_TEXT: Final = 300
_UNPRINTABLE: Final = re.compile(
    # Controls, halves of surrogate pairs, and marks that turn the direction of what follows.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)


def clean(text: str) -> str:
    r"""Return `text` with what no page can hold replaced by the replacement character.

    >>> clean("a\x00b\ud800\tc\n")
    'a�b�\tc\n'
    """
    return _UNPRINTABLE.sub("\ufffd", text)


def shortened(text: str, length: int = _TEXT) -> str:
    """Return printable text of at most `length` characters.

    >>> shortened("abcdefgh", 5)
    'abcd…'
    """
    whole = clean(text[: length + 1])
    return whole if len(whole) <= length else f"{whole[: length - 1]}…"


def number(value: float, digits: int = 4) -> str:
    """Return a number to so many significant digits, integers whole.

    >>> number(1435.0), number(0.000123456), number(-2.5), number(float("inf"))
    ('1,435', '0.0001235', '−2.5', '∞')
    >>> number(12345.678), number(3e9), number(1e-9)
    ('12,346', '3e9', '1e−9')
    """
    if math.isnan(value):
        return "undefined"
    sign = "−" if value < 0 else ""
    size = abs(value)
    if math.isinf(size):
        return f"{sign}∞"
    if size == 0 or (size < 1e7 and size == int(size)):
        return f"{sign}{size:,.0f}"
    if 1e-4 <= size < 1e7:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{size:,.{decimals}f}"
        return sign + (text.rstrip("0").rstrip(".") if decimals else text)
    return sign + _scientific(size, digits)


def estimate(mean: float, error: float | None) -> str:
    """Return ``mean ± error``, both to the second digit of the error.

    >>> estimate(0.0491, 0.0046), estimate(1430.0, 0.0), estimate(0.25, None)
    ('0.0491 ± 0.0046', '1,430 ± 0', '0.25')
    >>> estimate(98765.4, 123.0)
    '98,765 ± 123'
    """
    if error is None or not math.isfinite(error) or not math.isfinite(mean):
        return number(mean)
    if error == 0:
        return f"{number(mean)} ± 0"
    decimals = 1 - math.floor(math.log10(error))
    if decimals > 6 or max(abs(mean), error) >= 1e9:
        return f"{number(mean)} ± {number(error, 2)}"
    decimals = max(0, decimals)
    sign = "−" if mean < 0 else ""
    return f"{sign}{abs(mean):,.{decimals}f} ± {error:,.{decimals}f}"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units.

    >>> duration(4.234), duration(75), duration(7384), duration(200_000)
    ('4.2 s', '1 min 15 s', '2 h 3 min', '2 d 7 h')
    """
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400:,} d {whole % 86_400 // 3600} h"


def moment(text: str) -> str:
    """Return an ISO time to the minute, or the text itself where it is none.

    >>> moment("2025-03-01T14:03:22.5+00:00"), moment("noon")
    ('2025-03-01 14:03 UTC', 'noon')
    """
    try:
        time = datetime.fromisoformat(text)
        zone = time.tzname()
    except (ValueError, OverflowError):
        return shortened(text)
    return f"{time:%Y-%m-%d %H:%M}{f' {zone}' if zone else ''}"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "run"), counted(2000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _scientific(size: float, digits: int) -> str:
    mantissa, _, exponent = f"{size:.{digits - 1}e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    power = int(exponent)
    return f"{mantissa}e{'−' if power < 0 else ''}{abs(power)}"
