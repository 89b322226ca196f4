import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlo_lbg.assignments import Assignments, ClippedAssignments
from mlo_lbg.remedies import (
    BiasedGate,
    balance_bias,
    centre_columns,
    normalise_columns,
    uneven,
)


def assignments(num_examples: int, num_groups: int, seed: int) -> Assignments:
    torch.manual_seed(seed)
    rows = Assignments(num_examples=num_examples, num_groups=num_groups)
    with torch.no_grad():
        rows.logits.weight += 3 * torch.randn(num_groups)
    return rows


@settings(max_examples=25)
@given(groups=st.integers(2, 5), seed=st.integers(0, 1000))
def test_columns_get_equal_mass_and_rows_keep_their_order(groups: int, seed: int) -> None:
    rows = assignments(50, groups, seed)
    before = rows.logits.weight.clone()
    for _ in range(30):
        normalise_columns(nn.Identity(), rows, torch.empty(0))
    assert torch.allclose(rows.all_rows().mean(0), torch.full((groups,), 1 / groups), atol=1e-4)
    # One number is added to each column: differences between rows stay.
    after = rows.logits.weight
    assert torch.allclose(before - before[0], after - after[0], atol=1e-3)


@given(groups=st.integers(2, 5), seed=st.integers(0, 1000))
def test_centred_columns_have_mean_0(groups: int, seed: int) -> None:
    rows = assignments(20, groups, seed)
    centre_columns(nn.Identity(), rows, torch.empty(0))
    assert bool((rows.logits.weight.mean(0).abs() < 1e-5).all())


@pytest.mark.parametrize("act", [normalise_columns, centre_columns])
def test_clipped_rows_stay(act) -> None:
    rows = ClippedAssignments(num_examples=5, num_groups=2)
    before = rows.all_rows().clone()
    act(nn.Identity(), rows, torch.empty(0))
    assert rows.all_rows().equal(before)


def test_a_bias_balances_a_gate_that_always_chooses_one_group() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(300, 2)
    gate = BiasedGate(nn.Linear(2, 2), 2)
    with torch.no_grad():
        gate.gate.bias.copy_(torch.tensor([5.0, 0.0]))
    assert float((gate(inputs).argmax(-1) == 0).float().mean()) > 0.95
    rows = Assignments(num_examples=300, num_groups=2)
    for _ in range(200):
        balance_bias(gate, rows, inputs, rate=0.05, sample=300)
    assert 0.4 < float((gate(inputs).argmax(-1) == 0).float().mean()) < 0.6
    assert gate.training


def test_the_bias_is_state_but_no_parameter() -> None:
    gate = BiasedGate(nn.Linear(2, 3), 3)
    assert "bias" in gate.state_dict()
    assert len(list(gate.parameters())) == 2


@given(groups=st.integers(2, 6), seed=st.integers(0, 1000))
def test_uneven_is_0_when_uniform_log_k_when_collapsed_and_between(groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    collapsed = torch.zeros(4, groups)
    collapsed[:, 0] = 100.0
    limit = torch.tensor(float(groups)).log()
    assert torch.allclose(uneven(collapsed), limit, atol=1e-4)
    assert uneven(torch.zeros(4, groups)).item() == pytest.approx(0, abs=1e-6)
    assert -1e-6 <= uneven(3 * torch.randn(8, groups)).item() <= limit.item() + 1e-6


def test_uneven_has_the_gradient_of_its_formula() -> None:
    torch.manual_seed(0)
    scores = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(uneven, (scores,))
