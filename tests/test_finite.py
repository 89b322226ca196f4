import pytest
import torch

from mlo.finite import is_finite, zero_unless

ONE = torch.tensor(1.0)
BAD = [torch.nan, torch.inf, -torch.inf]


def sparse(*values):
    places = torch.zeros(3)
    places[[0, 2][: len(values)]] = 1.0
    made = places.to_sparse().coalesce()
    made.values().copy_(torch.tensor(values))
    return made


def test_a_finite_loss_with_finite_gradients():
    assert is_finite(ONE, {"a": torch.ones(2), "b": sparse(1.0, 2.0)})
    assert is_finite(ONE, {})
    assert is_finite(ONE, {"a": torch.zeros(0)})


@pytest.mark.parametrize("value", BAD)
def test_one_bad_number_anywhere_is_found(value):
    assert not is_finite(torch.tensor(value), {"a": ONE})
    assert not is_finite(ONE, {"a": ONE, "b": torch.tensor([1.0, value])})
    assert not is_finite(ONE, {"a": ONE, "b": sparse(1.0, value)})


@pytest.mark.parametrize("value", BAD)
def test_a_refused_gradient_becomes_exactly_zero(value):
    given = {"dense": torch.tensor([1.0, value]), "sparse": sparse(1.0, value)}
    zeros = zero_unless(torch.tensor(False), given)
    assert torch.equal(zeros["dense"], torch.zeros(2))
    assert zeros["sparse"].is_sparse
    assert torch.equal(zeros["sparse"].to_dense(), torch.zeros(3))
    assert zeros["sparse"].coalesce().indices().tolist() == [[0, 2]]


def test_an_accepted_gradient_is_passed_on():
    kept = zero_unless(torch.tensor(True), {"dense": torch.ones(2), "sparse": sparse(1.0, 2.0)})
    assert torch.equal(kept["dense"], torch.ones(2))
    assert torch.equal(kept["sparse"].to_dense(), torch.tensor([1.0, 0.0, 2.0]))
