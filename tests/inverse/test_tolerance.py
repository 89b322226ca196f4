import pytest
import torch

from mlo.inverse.tolerance import default_tolerance, relative


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_default_lies_between_rounding_and_its_root(dtype):
    eps = torch.finfo(dtype).eps
    assert eps < default_tolerance(torch.ones((), dtype=dtype)) < eps**0.5


def test_relative_to_nothing_is_zero_and_finite():
    assert relative(torch.zeros(()), torch.zeros(())) == 0
    assert relative(torch.tensor(1.0), torch.tensor(4.0)) == 0.25
