import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo import Context, ResponseError, Status, inverse
from mlo.testing.strategies import conditions, seeds
from tests.programs import system


def solve(matrix, vector, **options):
    def hvp(direction):
        return {"w": matrix @ direction["w"]}

    answer, outcome = inverse.exact(**options)(hvp, {"w": vector}, Context(problem="x"))
    return answer["w"], outcome


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


@given(st.integers(1, 8), conditions, seeds)
def test_solves_the_system(size, condition, seed):
    matrix, vector = system(size, condition, seed)
    answer, outcome = solve(matrix, vector)
    assert torch.allclose(answer, torch.linalg.solve(matrix, vector), rtol=1e-10)
    assert outcome.status is Status.CONVERGED
    assert outcome.iterations == size


def test_a_singular_hessian_is_solved_in_its_range():
    answer, outcome = solve(diagonal(2.0, 0.0), torch.tensor([4.0, 0.0]).double())
    assert torch.equal(answer, torch.tensor([2.0, 0.0]).double())
    assert outcome.converged


def test_what_lies_outside_the_range_of_a_singular_hessian_is_reported():
    answer, outcome = solve(diagonal(2.0, 0.0), torch.tensor([3.0, 4.0]).double())
    assert torch.equal(answer, torch.tensor([1.5, 0.0]).double())
    assert outcome.status is Status.ZERO_CURVATURE
    assert outcome.residual == pytest.approx(0.8)


def test_an_eigenvalue_that_is_zero_to_rounding_is_not_inverted():
    answer, outcome = solve(diagonal(1.0, 1e-17), torch.ones(2).double())
    assert float(answer.abs().max()) == pytest.approx(1.0)
    assert outcome.status is Status.ZERO_CURVATURE


def test_an_indefinite_hessian_is_inverted_and_reported():
    answer, outcome = solve(diagonal(2.0, -4.0), torch.ones(2).double())
    assert torch.allclose(answer, torch.tensor([0.5, -0.25]).double())
    assert outcome.status is Status.NEGATIVE_CURVATURE
    assert outcome.failed


def test_damping_is_added_to_the_diagonal():
    answer, outcome = solve(diagonal(1.0, 0.0), torch.ones(2).double(), damping=0.5)
    assert torch.allclose(answer, torch.tensor([1 / 1.5, 2.0]).double())
    assert outcome.converged


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_hessian_that_is_not_finite_is_reported_instead_of_raising(value):
    answer, outcome = solve(diagonal(1.0, value), torch.ones(2).double())
    assert outcome.status is Status.NON_FINITE
    assert outcome.residual != outcome.residual
    assert torch.isnan(answer).all()


def test_a_problem_that_would_fill_the_memory_is_refused():
    message = "problem 'x': exact.. builds the dense Hessian of 3 parameters, expected at most"
    with pytest.raises(ResponseError, match=message):
        solve(diagonal(1.0, 1.0, 1.0), torch.ones(3).double(), max_parameters=2)


def test_damping_out_of_range_is_refused():
    with pytest.raises(ResponseError, match="exact: damping must be >= 0, got -1"):
        inverse.exact(damping=-1)
