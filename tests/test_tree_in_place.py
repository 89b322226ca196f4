import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo import tree
from mlo.testing.strategies import seeds

factors = st.floats(-10, 10)


def vectors(seed, count):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (3, 2), "number": (), "empty": (0,), "vector": (5,)}
    return [
        {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
        for _ in range(count)
    ]


@pytest.mark.parametrize("kind", [float, lambda x: torch.tensor(x).double()], ids=["float", "0-d"])
@given(seed=seeds, factor=factors)
def test_all_forms_are_the_textbook_ones(kind, seed, factor):
    target, other = vectors(seed, 2)
    plus = {n: target[n] + factor * other[n] for n in target}
    scaled = {n: factor * target[n] + other[n] for n in target}
    made = tree.axpy(target, other, kind(factor))
    first, second = ({n: t.clone() for n, t in target.items()} for _ in range(2))
    tree.axpy_(first, other, kind(factor))
    tree.aypx_(second, other, kind(factor))
    for name in target:
        assert torch.allclose(made[name], plus[name])
        assert torch.allclose(first[name], plus[name])
        assert torch.allclose(second[name], scaled[name])


@pytest.mark.parametrize("factor", [2.0, torch.tensor(2.0)])
def test_they_write_to_the_target_and_only_there(factor):
    target, other = {"a": torch.ones(2)}, {"b": torch.ones(3), "a": torch.ones(2)}
    pointer = target["a"].data_ptr()
    tree.axpy_(target, other, factor)
    tree.aypx_(target, other, factor)
    assert target["a"].data_ptr() == pointer
    assert torch.equal(target["a"], torch.full((2,), 7.0))
    assert torch.equal(other["a"], torch.ones(2))


@pytest.mark.parametrize("factor", [2.0, torch.tensor(2.0)])
def test_nothing_stays_nothing(factor):
    tree.axpy_({}, {}, factor)
    tree.aypx_({}, {}, factor)
    assert tree.axpy({}, {}, factor) == {}


@pytest.mark.parametrize("size", [10, (1 << 20) + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_inner_products_are_summed_with_little_rounding(size, dtype):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator, dtype=dtype) for _ in range(2))
    for one, other in ((left, right), (left, left)):
        exact = torch.dot(one.double(), other.double())
        bound = 300 * torch.finfo(dtype).eps * float(one.double().norm() * other.double().norm())
        assert abs(float(tree.dot({"a": one}, {"a": other})) - float(exact)) < bound


def test_layout_does_not_matter_to_an_inner_product():
    left, right = torch.randn(4, 3), torch.randn(3, 4).T
    assert torch.allclose(tree.dot({"a": left}, {"a": right}), (left * right).sum())
