from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from mlo.errors import BatchError
from mlo.replay.static_batch import StaticBatch

Pair = namedtuple("Pair", ["inputs", "targets"])


@dataclass(frozen=True)
class Example:
    inputs: Any
    name: str = "train"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: (t, [t + 1]),
        lambda t: {"x": t, "rest": {"y": t + 1, "count": 3}},
        lambda t: Pair(t, t + 1),
        lambda t: Example((t, t + 1)),
    ],
    ids=["tensor", "tuple", "mapping", "named tuple", "dataclass"],
)
def test_values_go_into_the_first_batch_and_no_further(wrap):
    first = torch.zeros(3)
    static = StaticBatch("p", wrap(first))
    assert type(static.batch) is type(wrap(first))
    held = static.batch
    static.fill(wrap(torch.full((3,), 2.0)))
    assert static.batch is held
    assert str(held) == str(wrap(torch.full((3,), 2.0)))
    assert torch.equal(first, torch.zeros(3))


def test_entries_are_found_by_name_in_any_order():
    static = StaticBatch("p", {"x": torch.zeros(1), "y": torch.ones(1)})
    static.fill({"y": torch.tensor([3.0]), "x": torch.tensor([2.0])})
    assert static.batch == {"x": torch.tensor([2.0]), "y": torch.tensor([3.0])}


def test_a_broadcast_tensor_can_be_filled():
    static = StaticBatch("p", torch.zeros(1).expand(3))
    static.fill(torch.arange(3.0))
    assert static.batch.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(3), "train"), r"'p': batch\[0\] must be .*shape \(2,\).*shape \(3,\)"),
        ((torch.zeros(2).double(), "train"), r"batch\[0\].*float32.*float64"),
        ((torch.zeros(2), "valid"), r"batch\[1\].*'train', got 'valid'"),
        ((torch.zeros(2),), r"batch must be .*expected \['batch\[0\]', 'batch\[1\]'\]"),
    ],
)
def test_what_differs_in_more_than_values_is_refused(batch, message):
    static = StaticBatch("p", (torch.zeros(2), "train"))
    with pytest.raises(BatchError, match=message):
        static.fill(batch)


def test_what_no_value_can_be_copied_into_is_refused():
    with pytest.raises(BatchError, match=r"'p': batch\[1\] is a ndarray.*make it a tensor"):
        StaticBatch("p", (torch.zeros(2), np.zeros(2)))
