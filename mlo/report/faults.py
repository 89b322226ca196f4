"""What could not be read or shown: said once each, however often it happens."""

from dataclasses import dataclass, field
from typing import Final

from mlo.report.wording import shortened

_KINDS: Final = 40


@dataclass
class Faults:
    """Damaged or missing parts of a run, each a line of the page.

    >>> faults = Faults()
    >>> for line in (3, 7):
    ...     faults.add("metrics.jsonl", "not JSON", line=line)
    >>> faults.sentences()
    ['metrics.jsonl: not JSON (2 lines, the first is line 3)']
    """

    _found: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    _left_out: int = 0

    def add(self, part: str, what: str, *, line: int | None = None) -> None:
        """Note that `part` of the run is faulty, in a given line where it has lines."""
        key = (shortened(part), shortened(what))
        if key not in self._found and len(self._found) >= _KINDS:
            self._left_out += 1
            return
        entry = self._found.setdefault(key, [0, line or 0])
        entry[0] += 1

    def sentences(self) -> list[str]:
        """Return one sentence for each kind of fault, in the order of their first occurrence."""
        said = [f"{part}: {what}{_where(*entry)}" for (part, what), entry in self._found.items()]
        return said + ([f"and {self._left_out:,} more"] if self._left_out else [])


def _where(count: int, line: int) -> str:
    if not line:
        return f" ({count:,} times)" if count > 1 else ""
    return f" ({count:,} lines, the first is line {line:,})" if count > 1 else f" (line {line:,})"
