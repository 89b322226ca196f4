import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo import Context, ResponseError, Status, inverse
from mlo.inverse.sketch import orthonormal_rows
from mlo.testing.strategies import conditions, seeds
from tests.programs import system


def solve(matrix, vector, **options):
    def hvp(direction):
        return {"w": matrix @ direction["w"]}

    answer, outcome = inverse.nystrom(**options)(hvp, {"w": vector}, Context(problem="x"))
    return answer["w"], outcome


def identity(size):
    return torch.eye(size, dtype=torch.float64)


def positive_semidefinite(size, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(size, rank, generator=generator, dtype=torch.float64)
    return factor @ factor.T, torch.randn(size, generator=generator, dtype=torch.float64)


@settings(max_examples=40)
@given(st.integers(1, 8), conditions, seeds, st.integers(0, 3), st.floats(0.01, 10.0))
def test_with_as_many_columns_as_parameters_it_is_exact(size, condition, seed, more, damping):
    matrix, vector = system(size, condition, seed)
    answer, outcome = solve(matrix, vector, rank=size + more, damping=damping)
    expected = torch.linalg.solve(matrix + damping * identity(size), vector)
    assert torch.allclose(answer, expected, rtol=1e-9, atol=1e-9 * expected.abs().max())
    assert outcome.iterations == size + 1
    assert outcome.residual < 1e-9


@settings(max_examples=40)
@given(st.integers(1, 6), seeds, st.floats(0.1, 10.0))
def test_a_hessian_of_low_rank_is_seen_whole(rank, seed, damping):
    matrix, vector = positive_semidefinite(12, rank, seed)
    answer, outcome = solve(matrix, vector, rank=rank + 2, damping=damping)
    expected = torch.linalg.solve(matrix + damping * identity(12), vector)
    assert torch.allclose(answer, expected, rtol=1e-7, atol=1e-7 * expected.abs().max())
    assert outcome.status is not Status.NEGATIVE_CURVATURE
    assert outcome.iterations == rank + 3


@settings(max_examples=40)
@given(st.integers(2, 10), conditions, seeds, st.integers(1, 4), st.integers(0, 9))
def test_the_answer_is_the_dense_formula_of_the_same_sketch(size, condition, seed, rank, sketch):
    matrix, vector = system(size, condition, seed)
    rank = min(rank, size)
    answer, outcome = solve(matrix, vector, rank=rank, damping=0.3, seed=sketch)
    rows = orthonormal_rows({"w": vector}, rank, seed=sketch)["w"]
    image = matrix @ rows.T
    approximate = image @ torch.linalg.solve(rows @ image, image.T)
    expected = torch.linalg.solve(approximate + 0.3 * identity(size), vector)
    assert torch.allclose(answer, expected, rtol=1e-9, atol=1e-10)
    residual = (vector - (matrix + 0.3 * identity(size)) @ answer).norm() / vector.norm()
    assert outcome.residual == pytest.approx(float(residual), rel=1e-6, abs=1e-12)


def test_what_the_sketch_misses_is_divided_by_the_damping():
    # The Hessian has rank one, and the vector is orthogonal to its range.
    direction = torch.tensor([3.0, 4.0, 0.0]).double() / 5
    vector = torch.tensor([4.0, -3.0, 2.0]).double()
    answer, outcome = solve(7 * torch.outer(direction, direction), vector, rank=1, damping=0.25)
    assert torch.allclose(answer, 4 * vector, rtol=1e-12)
    assert outcome.converged


@settings(max_examples=40)
@given(st.integers(2, 10), conditions, seeds, st.integers(1, 10))
def test_the_hessian_is_approximated_from_below(size, condition, seed, rank):
    # 0 ⪯ Ĥ ⪯ H, so the answer lies between the exact one and that of the damping alone.
    matrix, vector = system(size, condition, seed)
    answer, _ = solve(matrix, vector, rank=rank, damping=0.5)
    exact = torch.linalg.solve(matrix + 0.5 * identity(size), vector)
    least, found, most = (float(vector @ w) for w in (exact, answer, vector / 0.5))
    assert least * (1 - 1e-9) <= found <= most * (1 + 1e-9)


def test_negative_curvature_is_dropped_and_reported():
    matrix = torch.diag(torch.tensor([3.0, 2.0, -1.0])).double()
    vector = torch.ones(3).double()
    answer, outcome = solve(matrix, vector, rank=3, damping=0.5)
    # The negative eigenvalue counts as zero.
    assert torch.allclose(answer, 1 / torch.tensor([3.5, 2.5, 0.5]).double(), rtol=1e-10)
    assert outcome.status is Status.NEGATIVE_CURVATURE
    assert outcome.failed


def test_a_saddle_of_small_curvature_is_not_mistaken_for_rounding():
    matrix = torch.diag(torch.tensor([1.0, -1e-6])).double()
    _, outcome = solve(matrix, torch.ones(2).double(), rank=2)
    assert outcome.status is Status.NEGATIVE_CURVATURE


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_hessian_that_is_not_finite_is_reported(value):
    answer, outcome = solve(value * identity(3), torch.ones(3).double())
    assert outcome.status is Status.NON_FINITE
    assert torch.isnan(answer).all()


def test_seeds_differ_and_repeat():
    matrix, vector = system(12, 100.0, 4)
    one, again, other = (solve(matrix, vector, rank=3, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, rtol=1e-3)


def test_half_precision_is_solved_in_its_own_dtype():
    vector = {"w": torch.ones(6, dtype=torch.bfloat16)}
    answer, outcome = inverse.nystrom(rank=6, damping=1.0)(
        lambda w: {"w": 3 * w["w"]}, vector, Context(problem="x")
    )
    assert answer["w"].dtype == torch.bfloat16
    assert torch.allclose(answer["w"], torch.tensor(0.25, dtype=torch.bfloat16), rtol=0.05)
    assert outcome.residual < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "nystrom: rank must be an integer >= 1, got 0"),
        ({"damping": 0.0}, "nystrom: damping must be > 0, got 0.0"),
        ({"damping": float("nan")}, "nystrom: damping must be > 0, got nan"),
        ({"seed": -1}, "nystrom: seed must be an integer >= 0, got -1"),
        ({"tolerance": -1.0}, "nystrom: tolerance must be >= 0, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ResponseError, match=message):
        inverse.nystrom(**options)


def test_label():
    assert inverse.nystrom().label == "nystrom(rank=10, damping=0.1)"
    assert inverse.nystrom(rank=3).products == 4


def test_an_empty_vector_has_an_empty_answer():
    answer, outcome = inverse.nystrom()(lambda w: w, {}, Context(problem="x"))
    assert answer == {}
    assert outcome.converged
