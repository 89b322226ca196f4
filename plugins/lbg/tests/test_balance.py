import pytest
import torch

from mlo_lbg.balance import switch_balance


def test_balance_is_one_when_even_and_k_at_collapse() -> None:
    even = torch.eye(3).repeat(4, 1) * 100
    one = torch.tensor([[100.0, 0.0, 0.0]]).repeat(6, 1)
    assert switch_balance(even).item() == pytest.approx(1)
    assert switch_balance(one).item() == pytest.approx(3)


def test_balance_is_the_formula() -> None:
    scores = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    shares, mean = torch.tensor([1 / 3, 2 / 3]), scores.softmax(1).mean(0)
    assert switch_balance(scores).item() == pytest.approx(2 * (shares * mean).sum().item())


def test_the_gradient_lowers_the_overloaded_expert() -> None:
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(switch_balance(scores), scores)
    assert (gradient[:, 0] > 0).all()
    assert (gradient[:, 1] < 0).all()
