import collections
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mlo import BatchError
from mlo.batch import Feed, to_device

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


def loader(length, **options):
    return DataLoader(TensorDataset(torch.arange(length)), **options)


def test_an_exhausted_loader_starts_again():
    feed = Feed("x", loader(4, batch_size=2), CPU)
    drawn = [feed.draw()[0].tolist() for _ in range(5)]
    assert drawn == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]
    assert feed.epochs == 2


def test_a_shuffling_loader_gives_a_new_order_each_epoch():
    generator = torch.Generator().manual_seed(0)
    feed = Feed("x", loader(8, batch_size=8, shuffle=True, generator=generator), CPU)
    first, second = feed.draw()[0].tolist(), feed.draw()[0].tolist()
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_nothing_is_drawn_before_it_is_asked_for():
    def never():
        raise AssertionError("drawn too early")
        yield

    Feed("x", never(), CPU)


def test_an_empty_generator_is_noticed_at_the_first_draw():
    with pytest.raises(BatchError, match="problem 'x': batches is a one-shot iterator that has"):
        Feed("x", iter([]), CPU).draw()


def test_an_iterable_that_yields_nothing_is_noticed_at_the_first_draw():
    class Nothing:
        def __iter__(self):
            return iter(())

    with pytest.raises(BatchError, match="problem 'x': batches is empty, expected at least one"):
        Feed("x", Nothing(), CPU).draw()


def test_a_one_shot_iterator_is_used_up_and_then_named():
    feed = Feed("x", (torch.tensor(i) for i in range(2)), CPU)
    assert [int(feed.draw()), int(feed.draw())] == [0, 1]
    message = "problem 'x': batches is a one-shot iterator that has ended; give an iterable that"
    with pytest.raises(BatchError, match=message):
        feed.draw()
