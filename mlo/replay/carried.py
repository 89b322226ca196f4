"""Tensors that a round replaces by new ones, as solvers do with what they remember."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from mlo.errors import MloError

Place = tuple[dict[str, Any], tuple[str, ...]]
"""A dictionary, and the keys that lead from it to a value through dictionaries within it."""


def places_of(root: dict[str, Any]) -> Iterator[Place]:
    """Yield where everything is that a dictionary of dictionaries holds.

    >>> [keys for _, keys in places_of({"w": {"x": 1.0, "y": 2.0}, "count": 3})]
    [('w', 'x'), ('w', 'y'), ('count',)]
    """
    for key, value in root.items():
        if isinstance(value, dict):
            yield from ((root, (key, *rest)) for _, rest in places_of(value))
        else:
            yield root, (key,)


class Carried:
    """Keeps tensors at the addresses where a captured round reads them.

    A captured round reads its memory where that was when it was captured. Where the round itself
    puts a new tensor in its place, `settle` copies the new values back and puts the old tensor
    where it was.

    Args:
        roots: The dictionaries; what they hold must be theirs alone.

    >>> memory = {"w": torch.zeros(2)}
    >>> carried, held = Carried([memory]), memory["w"]
    >>> memory["w"] = torch.ones(2)
    >>> carried.settle()
    >>> memory["w"], memory["w"] is held
    (tensor([1., 1.]), True)
    """

    def __init__(self, roots: Iterable[dict[str, Any]]) -> None:
        self._roots = list(roots)
        self._held = [(root, keys, _at(root, keys)) for root, keys in self._places()]
        self._known = {id(value) for _, _, value in self._held}

    def _places(self) -> list[Place]:
        return [place for root in self._roots for place in places_of(root)]

    @torch.no_grad()
    def settle(self) -> None:
        """Bring what has been replaced back to where it was.

        Raises:
            MloError: If anything but values of tensors has changed.
        """
        places = [keys for _, keys in self._places()]
        if places != [keys for _, keys, _ in self._held]:
            raise MloError(
                f"what is kept from round to round must stay the same in a captured round, "
                f"expected {_dotted([keys for _, keys, _ in self._held])}, got {_dotted(places)}"
            )
        moved: list[tuple[dict[str, Any], tuple[str, ...], Tensor, Tensor]] = []
        for root, keys, held in self._held:
            value = _at(root, keys)
            if value is held:
                continue
            if not _fits(value, held):
                raise MloError(
                    f"{'.'.join(keys)!r} is kept from round to round, and only values of tensors "
                    f"may change in a captured round, expected {held!r:.60}, got {value!r:.60}"
                )
            if isinstance(held, Tensor):
                # One may have taken another's place, which is written below.
                moved.append(
                    (root, keys, held, value.clone() if id(value) in self._known else value)
                )
        for root, keys, held, value in moved:
            held.copy_(value)
            _owner(root, keys)[keys[-1]] = held


def _fits(value: Any, held: Any) -> bool:
    if isinstance(held, Tensor):
        alike = isinstance(value, Tensor) and value.shape == held.shape
        return alike and value.dtype == held.dtype and value.device == held.device
    return type(value) is type(held) and bool(value == held)


def _owner(root: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    for key in keys[:-1]:
        root = root[key]
    return root


def _at(root: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return _owner(root, keys)[keys[-1]]


def _dotted(places: list[tuple[str, ...]]) -> list[str]:
    return [".".join(keys) for keys in places]
