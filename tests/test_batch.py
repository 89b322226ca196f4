import collections
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch

from mlo.batch import in_channels_last, length_of, to_device

CPU, META = torch.device("cpu"), torch.device("meta")


class Pair(NamedTuple):
    inputs: Any
    targets: Any


@dataclasses.dataclass
class Plain:
    inputs: Any
    note: str = "kept"


@dataclasses.dataclass(frozen=True)
class Frozen:
    inputs: Any
    note: str = "kept"


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    inputs: Any
    note: str = "kept"


@dataclasses.dataclass
class Derived:
    """Its __init__ takes something else than its fields."""

    start: dataclasses.InitVar[Any]
    inputs: Any = dataclasses.field(init=False)

    def __post_init__(self, start):
        self.inputs = start


class Encoding(collections.UserDict):
    """As the batches of text libraries: a mapping with attributes of its own."""

    def __init__(self, data, origin="nowhere"):
        super().__init__(data)
        self.origin = origin


def x():
    return torch.ones(2)


BATCHES = {
    "tensor": (x(), lambda b: [b]),
    "tuple": ((x(), x()), lambda b: [b[0], b[1]]),
    "named tuple": (Pair(x(), x()), lambda b: [b.inputs, b.targets]),
    "list": ([x(), "text"], lambda b: [b[0]]),
    "dict": ({"x": x(), "n": 3}, lambda b: [b["x"]]),
    "ordered dict": (collections.OrderedDict(x=x()), lambda b: [b["x"]]),
    "default dict": (collections.defaultdict(list, x=x()), lambda b: [b["x"]]),
    "user dict": (Encoding({"x": x()}, "here"), lambda b: [b["x"]]),
    "dataclass": (Plain(x()), lambda b: [b.inputs]),
    "frozen dataclass": (Frozen(x()), lambda b: [b.inputs]),
    "slotted dataclass": (Slotted(x()), lambda b: [b.inputs]),
    "dataclass with a custom start": (Derived(x()), lambda b: [b.inputs]),
    "nested": (
        {"pair": Pair(Frozen((x(), [x()])), {"deep": Encoding({"x": x()})})},
        lambda b: [
            b["pair"].inputs.inputs[0],
            b["pair"].inputs.inputs[1][0],
            b["pair"].targets["deep"]["x"],
        ],
    ),
}


@pytest.mark.parametrize(("batch", "tensors"), BATCHES.values(), ids=BATCHES)
def test_every_tensor_moves_and_the_structure_stays(batch, tensors):
    moved = to_device(batch, META)
    assert type(moved) is type(batch)
    assert all(t.device == META for t in tensors(moved))
    assert all(t.device == CPU for t in tensors(batch))


def test_what_is_not_a_tensor_is_kept():
    assert to_device(Frozen(x()), META).note == "kept"
    assert to_device(BATCHES["user dict"][0], META).origin == "here"
    assert to_device(BATCHES["dict"][0], META)["n"] == 3
    assert to_device(BATCHES["default dict"][0], META)["absent"] == []
    for untouched in (None, 3, "text", Frozen):
        assert to_device(untouched, META) is untouched


def test_a_length_that_is_not_known_is_none():
    assert length_of([1, 2]) == 2
    assert length_of(iter([1])) is None


def test_images_change_their_memory_format_and_nothing_else_does():
    batch = {"x": torch.rand(2, 3, 4, 4), "n": torch.ones(2, 3, 4, 4, dtype=torch.int64), "y": x()}
    changed = in_channels_last(batch)
    assert changed["x"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(changed["x"], batch["x"])
    assert changed["n"] is batch["n"]
    assert changed["y"] is batch["y"]
