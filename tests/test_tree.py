import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo import tree
from mlo.testing.strategies import seeds


def vector(seed, *, sparse=()):
    """A vector of tensors of several shapes, the named ones sparse."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"number": (), "empty": (0,), "matrix": (3, 2), "table": (4, 2)}
    tensors = {n: torch.randn(s, generator=generator).double() for n, s in shapes.items()}
    for name in sparse:
        tensors[name][0] = 0
        tensors[name] = tensors[name].to_sparse(1)
    return tensors


def flat(params):
    return torch.cat([t.to_dense().reshape(-1) for t in params.values()])


layouts = st.sampled_from([(), ("table",), ("matrix", "table")])
pairs = st.builds(
    lambda s, t, a, b: (vector(s, sparse=a), vector(t, sparse=b)), seeds, seeds, layouts, layouts
)


@settings(max_examples=30)
@given(pairs, st.floats(-3, 3))
def test_operations_are_those_of_the_flat_vector(pair, factor):
    left, right = pair
    assert torch.allclose(flat(tree.plus(left, right)), flat(left) + flat(right))
    assert torch.allclose(flat(tree.scaled(left, factor)), factor * flat(left))
    assert torch.allclose(flat(tree.scaled(left, torch.tensor(factor))), factor * flat(left))
    assert torch.allclose(tree.norm(left), flat(left).norm())
    assert torch.allclose(tree.largest(left), flat(left).abs().max())
    assert torch.allclose(tree.dot(tree.dense(left), tree.dense(right)), flat(left) @ flat(right))


@settings(max_examples=30)
@given(seeds, seeds, layouts)
def test_a_difference_of_vectors_of_one_layout(first, second, sparse):
    left, right = vector(first, sparse=sparse), vector(second, sparse=sparse)
    difference = tree.minus(left, right)
    assert torch.allclose(flat(difference), flat(left) - flat(right))
    assert all(difference[n].is_sparse for n in sparse)


@settings(max_examples=20)
@given(seeds, layouts)
def test_sparse_tensors_stay_sparse_until_a_dense_one_is_added(seed, sparse):
    left = vector(seed, sparse=sparse)
    assert [n for n, t in tree.plus(left, left).items() if t.is_sparse] == list(sparse)
    assert [n for n, t in tree.scaled(left, 2.0).items() if t.is_sparse] == list(sparse)
    assert not any(t.is_sparse for t in tree.plus(left, tree.dense(left)).values())
    assert not any(t.is_sparse for t in tree.plus(tree.dense(left), left).values())


def test_an_uncoalesced_gradient_is_summed_before_its_norm_is_taken():
    indices = torch.tensor([[1, 1]])
    twice = torch.sparse_coo_tensor(indices, torch.tensor([3.0, 4.0]), (3,), check_invariants=False)
    assert tree.norm({"w": twice}) == 7
    assert tree.largest({"w": twice}) == 7


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_not_hidden(value):
    params = {"a": torch.ones(3), "b": torch.tensor([1.0, value]), "c": torch.zeros(2)}
    assert not torch.isfinite(tree.largest(params))
    assert not torch.isfinite(tree.norm(params))


def test_an_empty_vector():
    assert tree.norm({}) == tree.largest({}) == tree.dot({}, {}) == 0
    assert tree.scaled({}, 2.0) == tree.plus({}, {}) == tree.minus({}, {}) == {}
    assert tree.largest({"empty": torch.zeros(0)}) == 0


def test_merged_takes_a_missing_tensor_as_zero():
    left, right = {"a": torch.ones(1), "b": torch.ones(1)}, {"b": torch.ones(1), "c": torch.ones(1)}
    merged = tree.merged(left, right)
    assert {n: t.item() for n, t in merged.items()} == {"a": 1, "b": 2, "c": 1}
    assert left["b"].item() == right["b"].item() == 1


def test_weights_may_be_numbers_and_tensors():
    params = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    weighted = tree.weighted(params, {"a": torch.tensor([2.0, 0.5]), "b": 0.0, "unused": 1.0})
    assert weighted["a"].tolist() == [2.0, 1.0]
    assert weighted["b"].tolist() == [0.0]


def test_leaves_and_constants_share_memory_and_nothing_else():
    params = {"a": torch.ones(2, requires_grad=True)}
    (leaf,), (constant,) = tree.leaves(params).values(), tree.constants(params).values()
    assert leaf.data_ptr() == constant.data_ptr() == params["a"].data_ptr()
    assert leaf.requires_grad
    assert leaf.is_leaf
    assert leaf is not params["a"]
    assert not constant.requires_grad
    assert params["a"].requires_grad


def test_names_pair_the_tensors_not_their_order():
    left = {"a": torch.tensor([1.0]), "b": torch.tensor([10.0])}
    right = {"b": torch.tensor([2.0]), "a": torch.tensor([5.0])}
    assert {n: t.item() for n, t in tree.plus(left, right).items()} == {"a": 6, "b": 12}
    assert {n: t.item() for n, t in tree.minus(left, right).items()} == {"a": -4, "b": 8}
    assert tree.dot(left, right) == 25


@pytest.mark.parametrize(
    ("entry", "expected"), [(1e-30, 1e-30), (1e30, 1e30), (float("inf"), float("inf"))]
)
def test_a_size_is_zero_or_infinite_only_where_an_entry_is(entry, expected):
    """Squares of these vanish or overflow in float32."""
    assert tree.size({"a": torch.tensor([entry, 0.0])}) == pytest.approx(expected)


def test_the_size_of_nothing_is_zero():
    assert (
        tree.size({}) == tree.size({"a": torch.zeros(0)}) == tree.size({"a": torch.zeros(2)}) == 0
    )
