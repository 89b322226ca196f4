from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo_lbg.data.dataset import DataError, Examples, Split, divide


def numbered(count: int) -> Examples:
    """Examples whose input, target and attribute tell the row they came from."""
    rows = torch.arange(count)
    return Examples(
        inputs=rows.float().unsqueeze(1),
        targets=rows % 3,
        attribute=rows % 2,
        num_classes=3,
        num_attributes=2,
    )


def test_subset_by_index_and_by_mask_keep_rows_together() -> None:
    examples = numbered(6)
    by_index = examples.subset(torch.tensor([5, 1]))
    by_mask = examples.subset(examples.attribute == 1)
    assert by_index.inputs.flatten().tolist() == [5.0, 1.0]
    assert by_index.targets.tolist() == [2, 1]
    assert by_mask.inputs.flatten().tolist() == [1.0, 3.0, 5.0]
    assert by_mask.attribute.tolist() == [1, 1, 1]
    assert by_mask.num_classes == 3


def test_a_subset_may_be_empty() -> None:
    assert len(numbered(4).subset(torch.zeros(4, dtype=torch.bool))) == 0


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_to_moves_every_tensor_and_keeps_rows(device: str) -> None:
    examples = numbered(3)
    moved = examples.to(device)
    tensors = (moved.inputs, moved.targets, moved.attribute)
    assert {tensor.device.type for tensor in tensors} == {device}
    assert moved.subset(torch.tensor([2], device=device)).targets.tolist() == [2]
    split = Split(train=examples, test=examples).to(device)
    assert split.halves(seed=0).train.inputs.device.type == device


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.tensor(1.0)}, r"inputs: expected shape \(examples, ...\), got a scalar"),
        (
            {"targets": torch.tensor([0, 1])},
            r"targets: expected shape \(3,\) as inputs has 3 rows, got \(2,\)",
        ),
        (
            {"attribute": torch.zeros(3)},
            r"attribute: expected torch.int64, got torch.float32",
        ),
        (
            {"targets": torch.tensor([0, 1, 3])},
            r"targets: expected values in 0..2 as num_classes is 3, got 0..3",
        ),
        (
            {"attribute": torch.tensor([-1, 0, 1])},
            r"attribute: expected values in 0..1 as num_attributes is 2, got -1..1",
        ),
        ({"num_classes": 0}, r"num_classes: expected at least 1, got 0"),
        (
            {"targets": torch.zeros(3, dtype=torch.int64, device="meta")},
            r"targets: expected device cpu as inputs has, got meta",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(numbered(3), **change)  # type: ignore[arg-type]  # wrong on purpose


@given(
    count=st.integers(2, 60),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_divide_is_a_partition(count: int, share: float, seed: int) -> None:
    examples = numbered(count)
    if not 0 < round(share * count) < count:
        with pytest.raises(DataError, match="leaves both parts non-empty"):
            divide(examples, validation=share, seed=seed)
        return
    train, validation = divide(examples, validation=share, seed=seed)
    rows = torch.cat([train.inputs, validation.inputs]).flatten()
    assert len(validation) == round(share * count)
    assert sorted(rows.tolist()) == list(range(count))


def test_halves_follow_the_seed_and_leave_test_alone() -> None:
    examples = numbered(40)
    split = Split(
        train=examples.subset(torch.arange(30)), test=examples.subset(torch.arange(30, 40))
    )
    first, again, other = split.halves(seed=1), split.halves(seed=1), split.halves(seed=2)
    assert len(first.train) == len(first.validation) == 15
    assert first.train.inputs.equal(again.train.inputs)
    assert not first.train.inputs.equal(other.train.inputs)
    assert torch.cat([first.train.inputs, first.validation.inputs]).max() < 30


def test_a_split_refuses_parts_of_different_kind() -> None:
    train = numbered(6)
    with pytest.raises(DataError, match="test: expected num_classes 3 as in train, got 4"):
        Split(train=train, test=replace(train, num_classes=4))
    with pytest.raises(DataError, match=r"test: expected inputs of shape \(1,\) as in train"):
        Split(train=train, test=replace(train, inputs=torch.zeros(6, 2)))
