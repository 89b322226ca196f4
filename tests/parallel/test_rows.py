import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo.errors import BatchError
from mlo.parallel.rows import rows_of, sliced

Pair = namedtuple("Pair", "x y")


@dataclass(frozen=True)
class Sample:
    x: torch.Tensor
    name: str


@given(st.integers(0, 60), st.integers(1, 9))
def test_rows_are_those_of_array_split(count, size):
    found = [list(range(count))[rows_of(count, rank, size)] for rank in range(size)]
    assert found == [part.tolist() for part in np.array_split(np.arange(count), size)]


@given(st.integers(1, 40), st.integers(1, 6))
def test_weighted_means_of_the_slices_are_the_mean_of_the_batch(count, size):
    batch = torch.randn(count, 2, dtype=torch.float64)
    if count < size:
        with pytest.raises(BatchError):
            sliced(batch, 0, size)
        return
    parts = [sliced(batch, rank, size) for rank in range(size)]
    torch.testing.assert_close(torch.cat([part for part, _ in parts]), batch, rtol=0, atol=0)
    mean = sum(part.mean(0) * weight for part, weight in parts) / size
    torch.testing.assert_close(mean, batch.mean(0))


def test_any_structure_is_cut_and_kept():
    x = torch.arange(5)
    batch = OrderedDict(
        pair=Pair(x, [x, x.float()]),
        sample=Sample(x, "whole"),
        names=["a", "b", "c", "d", "e"],
        other=["a", "b"],
        scale=torch.tensor(2.0),
        number=3,
        nothing=None,
    )
    found, weight = sliced(batch, 1, 2)
    assert weight == 2 * 2 / 5
    assert type(found) is OrderedDict
    assert type(found["pair"]) is Pair
    assert found["pair"].x.tolist() == found["sample"].x.tolist() == [3, 4]
    assert found["pair"].y[1].tolist() == [3.0, 4.0]
    assert found["sample"].name == "whole"
    assert found["names"] == ["d", "e"]
    assert found["other"] == ["a", "b"]
    assert found["scale"] == 2
    assert (found["number"], found["nothing"]) == (3, None)
    assert batch["pair"].x is x


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.ones(3, 2), "must have at least 4 rows, got 3; use larger batches"),
        ((torch.ones(8), {"y": torch.ones(7, 2)}), "got shapes (8,) and (7, 2)"),
        ({"x": 3}, "must hold a tensor whose rows can be shared, got dict without one"),
        (torch.tensor(1.0), "must hold a tensor whose rows can be shared"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_in_one_line(batch, message):
    with pytest.raises(BatchError, match=re.escape(message)) as caught:
        sliced(batch, 0, 4)
    assert "\n" not in str(caught.value)
