import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mlo_lbg.dispatch import dispatch


class Counting(nn.Module):
    """Adds a constant and records how many rows it saw."""

    def __init__(self, added: float) -> None:
        super().__init__()
        self.added = added
        self.rows: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows.append(len(inputs))
        return inputs + self.added


@given(groups=st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_each_row_is_answered_by_its_expert_alone(groups: list[int]) -> None:
    experts = [Counting(100.0 * place) for place in range(4)]
    inputs = torch.arange(len(groups)).float().unsqueeze(1)
    chosen = torch.tensor(groups)
    answers = dispatch(experts, chosen, inputs)
    assert answers.equal(inputs + 100 * chosen.unsqueeze(1))
    for place, expert in enumerate(experts):
        assert expert.rows == ([groups.count(place)] if place in groups else [])


def test_gradients_reach_only_experts_with_rows_and_the_inputs() -> None:
    experts = [nn.Linear(2, 3) for _ in range(3)]
    inputs = torch.randn(4, 2, requires_grad=True)
    dispatch(experts, torch.tensor([2, 0, 2, 0]), inputs).square().sum().backward()
    assert [expert.weight.grad is not None for expert in experts] == [True, False, True]
    assert inputs.grad is not None
    assert (inputs.grad != 0).any(1).all()


def test_no_rows_give_no_answers() -> None:
    experts = [nn.Linear(2, 3), nn.Linear(2, 3)]
    assert dispatch(experts, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)).shape == (0, 3)


def test_a_single_row_does_not_break_batch_norm_or_move_its_statistics() -> None:
    experts = [nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    experts[1][0].eval()
    norm = experts[1][1]
    before = norm.running_mean.clone()
    dispatch(experts, torch.tensor([0, 0, 0, 1]), torch.randn(4, 2)).sum().backward()
    assert norm.running_mean.equal(before)
    assert norm.training
    assert not experts[1][0].training
    assert not experts[0][1].running_mean.equal(before)


def test_modes_are_restored_after_an_error() -> None:
    expert = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(RuntimeError):
        dispatch([expert], torch.tensor([0]), torch.randn(1, 5))
    assert expert.training
    assert expert[0].training
