"""C: rows, gradients and projection."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo.errors import MloError
from mlo_lbg.assignments import Assignments, ClippedAssignments


@given(examples=st.integers(1, 20), groups=st.integers(1, 5), seed=st.integers(0, 1000))
def test_rows_lie_on_the_simplex(examples: int, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    rows = Assignments(num_examples=examples, num_groups=groups).all_rows()
    assert rows.shape == (examples, groups)
    assert (rows > 0).all()
    assert torch.allclose(rows.sum(-1), torch.ones(examples))


def test_the_start_does_not_put_all_rows_in_one_group() -> None:
    torch.manual_seed(0)
    groups = Assignments(num_examples=1000, num_groups=4).all_rows().argmax(-1)
    shares = torch.bincount(groups, minlength=4) / 1000
    assert (shares > 0.15).all()


def test_indexed_rows_are_the_rows() -> None:
    assignments = Assignments(num_examples=7, num_groups=3)
    index = torch.tensor([6, 0, 6])
    assert torch.equal(assignments(index), assignments.all_rows()[index])


@pytest.mark.parametrize("kind", [Assignments, ClippedAssignments])
def test_the_gradient_holds_the_rows_of_the_batch_only(
    kind: type[Assignments] | type[ClippedAssignments],
) -> None:
    assignments = kind(num_examples=7, num_groups=3)
    assignments(torch.tensor([5, 2])).square().sum().backward()
    (parameter,) = assignments.parameters()
    assert parameter.grad is not None
    assert parameter.grad.is_sparse
    assert sorted(parameter.grad.coalesce().indices()[0].tolist()) == [2, 5]


def test_projection_clips_entries_and_leaves_the_rest() -> None:
    assignments = ClippedAssignments(num_examples=1, num_groups=3)
    with torch.no_grad():
        assignments.entries.weight.copy_(torch.tensor([[-0.5, 0.25, 1.5]]))
    assignments.project()
    assert assignments.all_rows().tolist() == [[0.0, 0.25, 1.0]]


@pytest.mark.parametrize(
    ("examples", "groups", "message"),
    [(0, 2, "num_examples must be >= 1, got 0"), (3, 0, "num_groups must be >= 1, got 0")],
)
def test_impossible_counts_are_named(examples: int, groups: int, message: str) -> None:
    for kind in (Assignments, ClippedAssignments):
        with pytest.raises(MloError, match=message):
            kind(num_examples=examples, num_groups=groups)


def test_an_impossible_scale_is_named() -> None:
    with pytest.raises(MloError, match=r"scale must be > 0, got 0\.0"):
        Assignments(num_examples=1, num_groups=2, scale=0.0)
