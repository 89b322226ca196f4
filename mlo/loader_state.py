"""What decides the batches of an epoch: random generators, and epochs that are counted.

A loader that is iterated again with all of these as they were gives the same batches again.
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mlo.randomness import capture, restore

State = dict[str, Any]
"""Plain data."""

_DEPTH = 6
_LONGEST = 100
_MOST = 10_000
"""Objects looked at: what a loader refers to is unbounded, as a data set may be."""

_PLAIN: frozenset[type] = frozenset(
    {str, bytes, int, float, complex, bool, type(None), Tensor, np.ndarray}
)
_LEAVES: tuple[type, ...] = (*_PLAIN, type, nn.Module, ModuleType, random.SystemRandom)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_MACHINERY = {"asyncio", "concurrent", "logging", "multiprocessing", "subprocess", "threading"}


def device_of_generators(device: torch.device) -> torch.device:
    """Return `device` if it has a random generator of its own, else the CPU.

    >>> device_of_generators(torch.device("meta"))
    device(type='cpu')
    """
    return torch.device("cpu") if device.type == "meta" else device


def global_state(device: torch.device) -> State:
    """Return the states of Python's, NumPy's and torch's generators, on `device` too."""
    python, numpy, torch_cpu, on_device = capture(device)
    return {
        "python": python,
        "numpy": numpy,
        "torch": torch_cpu,
        "device": on_device,
        "device_type": device.type,
    }


def set_global(state: Mapping[str, Any], device: torch.device) -> None:
    """Set the generators to what `global_state` returned; a device of another kind keeps its own.

    >>> cpu = torch.device("cpu")
    >>> state = global_state(cpu)
    >>> first = torch.rand(())
    >>> set_global(state, cpu)
    >>> bool(first == torch.rand(()))
    True
    """
    on_device = state["device"] if state["device_type"] == device.type else None
    restore((state["python"], state["numpy"], state["torch"], on_device), device)


def found_in(loader: object) -> dict[str, Any]:
    """Return the generators, and the objects that count epochs, that a loader refers to, by path.

    They are looked for in attributes, short containers and what functions have closed over, a few
    steps deep. An object counts epochs if it has ``set_epoch()`` and a number ``epoch``, or can be
    iterated or indexed and has the attribute ``epoch``.

    >>> class Batches:
    ...     def __init__(self):
    ...         self.order = torch.Generator()
    >>> list(found_in(Batches()))
    ['order']
    >>> list(found_in(DataLoader([1, 2], shuffle=True, generator=torch.Generator())))
    ['generator']
    """
    seen: set[int] = set()
    found: dict[str, Any] = {}
    waiting: deque[tuple[str, Any, int]] = deque([("", loader, 0)])
    while waiting and len(seen) < _MOST:
        path, value, depth = waiting.popleft()
        if isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _GENERATORS):
            found[path] = value
            continue
        if str(type(value).__module__).split(".", 1)[0] in _MACHINERY:
            continue
        if takes_epochs(value) or _has_epoch(value):
            found[path] = value
        if depth < _DEPTH:
            before = f"{path}." if path else ""
            waiting += [
                (f"{before}{name}", part, depth + 1)
                for name, part in _parts(value)
                # Most attributes are plain, and this runs at every epoch.
                if type(part) not in _PLAIN
            ]
    return found


def takes_epochs(value: object) -> bool:
    """Return whether a sampler or a data set is to be told which epoch it is in."""
    return callable(getattr(type(value), "set_epoch", None)) and _is_number(
        getattr(value, "epoch", None)
    )


def states_of(found: Mapping[str, Any]) -> State:
    """Return the states of what `found_in` returned, by path."""
    return {path: _state(one) for path, one in found.items()}


def set_states(found: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Set what is in both to the states that `states_of` returned."""
    for path in found.keys() & states.keys():
        _set(found[path], states[path])


def differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> set[str]:
    """Return the keys that both have, with other values.

    >>> differing({"a": torch.ones(2), "b": (2,)}, {"a": torch.ones(2), "b": (3,), "c": 4})
    {'b'}
    """
    return {key for key in left.keys() & right.keys() if not _is_same(left[key], right[key])}


def _is_same(left: Any, right: Any) -> bool:
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and not differing(left, right)
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    return bool(np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_epoch(value: object) -> bool:
    gives_data = hasattr(type(value), "__iter__") or hasattr(type(value), "__getitem__")
    return gives_data and _is_number(getattr(value, "__dict__", {}).get("epoch"))


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, FunctionType):
        return [*_closed_over(value), *_numbered(value.__defaults__ or ())]
    if isinstance(value, MethodType):
        return [("self", value.__self__), ("function", value.__func__)]
    if isinstance(value, partial):
        return [("function", value.func), *_numbered(value.args), *value.keywords.items()]
    attributes = _attributes(value)
    if isinstance(value, dict) and len(value) <= _LONGEST:
        return [*((str(key), part) for key, part in value.items()), *attributes]
    if isinstance(value, list | tuple) and len(value) <= _LONGEST:
        return [*_numbered(value), *attributes]
    return attributes


def _numbered(values: list[Any] | tuple[Any, ...]) -> list[tuple[str, Any]]:
    return [(str(place), part) for place, part in enumerate(values)]


def _attributes(value: object) -> Iterable[tuple[str, Any]]:
    found = getattr(value, "__dict__", {})
    if isinstance(value, DataLoader):
        # Queues and processes of a loader that is being iterated.
        found = {name: part for name, part in found.items() if name != "_iterator"}
    slots = [name for name in _slots(type(value)) if hasattr(value, name)]
    return [*found.items(), *((name, getattr(value, name)) for name in slots)]


def _slots(kind: type) -> list[str]:
    slots = [one.__dict__["__slots__"] for one in kind.__mro__ if "__slots__" in one.__dict__]
    names = [name for one in slots for name in ((one,) if isinstance(one, str) else one)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _closed_over(function: FunctionType) -> Iterator[tuple[str, Any]]:
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _state(one: Any) -> Any:
    if isinstance(one, torch.Generator):
        return one.get_state()
    if isinstance(one, np.random.Generator):
        return one.bit_generator.state
    if isinstance(one, np.random.RandomState):
        return one.get_state(legacy=False)
    if isinstance(one, random.Random):
        return one.getstate()
    return int(one.epoch)


def _set(one: Any, state: Any) -> None:
    if isinstance(one, torch.Generator):
        one.set_state(state)
    elif isinstance(one, np.random.Generator):
        one.bit_generator.state = state
    elif isinstance(one, np.random.RandomState):
        one.set_state(state)
    elif isinstance(one, random.Random):
        one.setstate(state)
    elif takes_epochs(one):
        one.set_epoch(state)
    else:
        one.epoch = state
