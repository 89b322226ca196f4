"""Variants that do different work are found out before anything is timed."""

import pytest
import torch
from torch.optim import SGD

from mlo.bench.programs import BenchmarkError
from mlo.bench.variant import Steps, check_equal, disagreement, gradient_of_round


def test_the_gradient_is_what_the_optimizer_applies():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SGD([weight], lr=0.5)

    def upper():
        weight.grad = torch.tensor([4.0, 8.0])
        optimizer.step()
        optimizer.zero_grad()

    (gradient,) = gradient_of_round(Steps(lower=lambda: None, upper=upper, optimizer=optimizer))
    assert gradient.tolist() == [4.0, 8.0]
    assert weight.tolist() == [-1.0, -2.0]


def test_a_sparse_gradient_is_made_dense():
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = SGD([weight], lr=0.5)

    def upper():
        weight.grad = torch.tensor([0.0, 1.0, 0.0]).to_sparse()
        optimizer.step()

    (gradient,) = gradient_of_round(Steps(lower=lambda: None, upper=upper, optimizer=optimizer))
    assert gradient.tolist() == [0.0, 1.0, 0.0]


def test_the_distance_is_relative_and_over_all_tensors():
    expected = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    assert disagreement([torch.tensor([3.0]), torch.tensor([[4.5]])], expected) == 0.1


@pytest.mark.parametrize("found", [[], [torch.ones(2)], [torch.ones(1), torch.ones(1)]])
def test_gradients_of_other_shapes_are_refused(found):
    with pytest.raises(BenchmarkError, match="shapes"):
        disagreement(found, [torch.ones(1)])


def test_a_zero_gradient_proves_nothing():
    with pytest.raises(BenchmarkError, match="zero"):
        disagreement([torch.zeros(1)], [torch.zeros(1)])


@pytest.mark.parametrize("value", [1.1, float("nan"), float("inf")])
def test_a_variant_that_differs_stops_the_case(value):
    gradients = {"by hand": [torch.ones(1)], "other": [torch.tensor([value])]}
    with pytest.raises(BenchmarkError, match=r"case: .*'other' differs from that of 'by hand'"):
        check_equal("case", gradients, "by hand", 1e-5)


def test_distances_of_equal_variants_are_returned():
    gradients = {"by hand": [torch.ones(1)], "other": [torch.ones(1)]}
    assert check_equal("case", gradients, "by hand", 0.0) == {"other": 0.0}
