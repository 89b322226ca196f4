import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import DataError, Examples


def numbered(count: int) -> Examples:
    rows = torch.arange(count)
    return Examples(
        inputs=rows.float(), targets=rows, attribute=rows, num_classes=count, num_attributes=count
    )


@given(count=st.integers(1, 50), size=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_each_pass_holds_every_row_once_with_its_number(count: int, size: int, seed: int) -> None:
    batches = Batches(numbered(count), size=size, seed=seed)
    for _ in range(2):
        passed = list(batches)
        assert len(passed) == len(batches)
        assert all(len(index) == size for index, _, _ in passed[:-1])
        for index, inputs, targets in passed:
            assert index.equal(targets)
            assert inputs.equal(index.float())
        assert sorted(torch.cat([index for index, _, _ in passed]).tolist()) == list(range(count))


@given(count=st.integers(1, 50), size=st.integers(1, 50), seed=st.integers(0, 2**32))
def test_drop_last_leaves_whole_batches_only(count: int, size: int, seed: int) -> None:
    if size > count:
        with pytest.raises(DataError, match=f"expected at least {size}"):
            Batches(numbered(count), size=size, seed=seed, drop_last=True)
        return
    batches = Batches(numbered(count), size=size, seed=seed, drop_last=True)
    assert [len(index) for index, _, _ in batches] == [size] * (count // size)
    assert len(batches) == count // size


def test_passes_differ_and_follow_the_seed() -> None:
    def order(batches: Batches) -> list[int]:
        return [int(row) for index, _, _ in batches for row in index]

    first, same, other = (Batches(numbered(20), size=6, seed=seed) for seed in (3, 3, 4))
    once, twice = order(first), order(first)
    assert once != twice
    assert [order(same), order(same)] == [once, twice]
    assert order(other) != once


def test_the_generator_is_all_the_state() -> None:
    batches = Batches(numbered(20), size=20, seed=0)
    list(batches)
    state = batches.generator.get_state()
    ((expected, _, _),) = batches
    resumed = Batches(numbered(20), size=20, seed=99)
    resumed.generator.set_state(state)
    ((found, _, _),) = resumed
    assert found.equal(expected)


def test_nothing_to_yield_is_refused() -> None:
    with pytest.raises(DataError, match="size: expected at least 1 row in a batch, got 0"):
        Batches(numbered(3), size=0, seed=0)
    with pytest.raises(DataError, match="examples: expected at least 1"):
        Batches(numbered(3).subset(torch.tensor([], dtype=torch.int64)), size=4, seed=0)
