"""What Betty draws batches from, as one iterable."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mlo.errors import BatchError


@dataclass(frozen=True, kw_only=True)
class Together:
    """Tuples of one batch from each loader, without end; each starts again when it has ended.

    Attributes:
        problem: Name of the problem, for error messages.
        loaders: At least one.

    >>> from itertools import islice
    >>> list(islice(Together(problem="m", loaders=([1, 2, 3], "ab")), 3))
    [(1, 'a'), (2, 'b'), (3, 'a')]
    """

    problem: str
    loaders: tuple[Iterable[Any], ...]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Return a fresh iterator."""
        return zip(*(self._endless(loader) for loader in self.loaders), strict=True)

    def _endless(self, loader: Iterable[Any]) -> Iterator[Any]:
        while True:
            is_empty = True
            for batch in loader:
                is_empty = False
                yield batch
            if is_empty:
                raise BatchError(
                    f"problem {self.problem!r}: one of its train_data_loader is empty or was a "
                    "one-shot iterator, expected an iterable that can be iterated again"
                )


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The batches that a function returns, without end: of a problem with its own ``get_batch``.

    Attributes:
        draw: Returns the next batch.

    >>> next(iter(Drawn(draw=lambda: 3)))
    3
    """

    draw: Callable[[], Any]

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator that draws."""
        while True:
            yield self.draw()
