import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.inverse.sketch import gram, orthonormal_rows
from mlo.testing.strategies import seeds


def joined(rows):
    return torch.cat([t.reshape(len(t), -1) for t in rows.values()], dim=1)


def like(*shapes, dtype=torch.float64):
    return {f"t{i}": torch.zeros(shape, dtype=dtype) for i, shape in enumerate(shapes)}


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(0, 300), seeds)
def test_the_rows_are_orthonormal(rows, more, seed):
    found = orthonormal_rows(like((rows, 1), (), (more, 3)), rows, seed)
    assert torch.allclose(gram(found, found), torch.eye(rows).double(), atol=1e-12)
    assert [tuple(t.shape) for t in found.values()] == [(rows, rows, 1), (rows,), (rows, more, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [4096, 4097, 100_003])
def test_long_rows_are_orthonormal(dtype, size):
    found = orthonormal_rows(like((size,), (7,), dtype=dtype), 6, seed=1)
    error = (gram(found, found) - torch.eye(6).to(dtype)).abs().max()
    assert error < 200 * torch.finfo(dtype).eps
    assert all(t.dtype == dtype for t in found.values())


def test_the_dtype_changes_only_the_rounding():
    one = joined(orthonormal_rows(like((10_000,), dtype=torch.float32), 3, seed=2))
    other = joined(orthonormal_rows(like((10_000,), dtype=torch.float64), 3, seed=2))
    assert torch.allclose(one.double(), other, atol=1e-6)


def test_seeds_differ_and_the_global_random_numbers_are_not_touched():
    state = torch.get_rng_state()
    one, again, other = (joined(orthonormal_rows(like((50,)), 3, seed=s)) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=0.1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.fixture(scope="module")
def long_rows():
    return joined(orthonormal_rows(like((32 * 4096,)), 200, seed=4))


@pytest.mark.parametrize("structure", ["one block", "equal in all blocks", "a low-rank matrix"])
def test_long_rows_keep_the_lengths_in_a_subspace(long_rows, structure):
    """Repeating a block must not hide a subspace, above all one that repeats as the block does."""
    (rows, size), dimension = long_rows.shape, 2
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    if structure == "one block":
        basis = torch.zeros(size, dimension).double()
        basis[:4096] = normal(4096, dimension)
    elif structure == "equal in all blocks":
        basis = normal(4096, dimension).repeat(32, 1)
    else:
        basis = torch.einsum("i,jd->ijd", normal(256), normal(512, dimension)).flatten(0, 1)
    basis, _ = torch.linalg.qr(basis)
    stretch = torch.linalg.svdvals(long_rows @ basis) * (size / rows) ** 0.5
    # A Gaussian sketch stretches by 1 ± sqrt(dimension / rows) = 1 ± 0.1, up to fluctuations.
    assert stretch.min() > 0.75
    assert stretch.max() < 1.25


def test_inner_products_are_summed_over_all_tensors():
    one, other = like((3, 2), (5,)), like((3, 2), (5,))
    one = {name: torch.randn(4, *t.shape).double() for name, t in one.items()}
    other = {name: torch.randn(2, *t.shape).double() for name, t in other.items()}
    assert torch.allclose(gram(one, other), joined(one) @ joined(other).T)
