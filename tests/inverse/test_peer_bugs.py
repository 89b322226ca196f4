"""Cases in which solvers of other libraries are wrong, one named test for each."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo import Context, Status, inverse
from mlo.testing.strategies import conditions, seeds
from tests.programs import system


def solve(solver, matrix, vector):
    def hvp(direction):
        return {"w": matrix @ direction["w"]}

    answer, outcome = solver(hvp, {"w": vector}, Context(problem="x"))
    return answer["w"], outcome


@pytest.mark.parametrize("factor", [1e-3, 1.0, 7.0])
def test_cg_solves_h_proportional_to_the_identity_in_one_step(factor):
    # Two libraries test for convergence before they accept the step, and answer zero.
    vector = torch.tensor([-1.0, 2.0, 0.5]).double()
    answer, outcome = solve(inverse.cg(steps=10), factor * torch.eye(3).double(), vector)
    assert torch.allclose(answer, vector / factor, rtol=1e-14)
    assert outcome.iterations == 1


@pytest.mark.parametrize("tolerance", [None, 0.0])
def test_cg_beyond_n_steps_stays_exact_where_the_residual_reaches_zero(tolerance):
    # 0 / 0 = NaN elsewhere.
    matrix = torch.diag(torch.tensor([1.0, 2.0, 4.0])).double()
    vector = torch.tensor([1.0, 0.0, 0.0]).double()
    answer, outcome = solve(inverse.cg(steps=50, tolerance=tolerance), matrix, vector)
    assert torch.equal(answer, vector)
    assert outcome.residual == 0.0
    assert outcome.converged


@settings(max_examples=30)
@given(st.integers(4, 20), conditions, seeds)
def test_cg_beta_uses_the_new_residual(size, condition, seed):
    # With β from the old residual the error grows with the steps: 1.8 at 5, 2.3 at 60. The true
    # method minimises the error in the norm of H over a growing space.
    matrix, vector = system(size, condition, seed)
    solution = torch.linalg.solve(matrix, vector)
    errors = []
    for steps in range(1, size + 1):
        error = solution - solve(inverse.cg(steps=steps), matrix, vector)[0]
        errors.append(float(error @ matrix @ error) ** 0.5)
    scale = float(solution @ matrix @ solution) ** 0.5
    assert all(b <= a + 1e-9 * scale for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-4 * scale


def test_cg_stops_and_reports_negative_curvature():
    # Elsewhere the step along the negative direction is taken, and the answer means nothing.
    matrix = torch.diag(torch.tensor([2.0, 1.0, -0.5])).double()
    answer, outcome = solve(inverse.cg(steps=10), matrix, torch.ones(3).double())
    assert outcome.status is Status.NEGATIVE_CURVATURE
    assert outcome.failed
    assert torch.isfinite(answer).all()


def test_cg_damped_past_the_negative_curvature_solves_the_damped_system():
    matrix = torch.diag(torch.tensor([2.0, 1.0, -0.5])).double()
    answer, outcome = solve(inverse.cg(steps=10, damping=1.0), matrix, torch.ones(3).double())
    assert outcome.converged
    assert answer.tolist() == pytest.approx([1 / 3, 1 / 2, 2.0], rel=1e-12)


@pytest.mark.parametrize("terms", [10, 50, 200])
def test_neumann_above_two_over_the_largest_eigenvalue_is_reported(terms):
    # With more terms the answer grows to 1e18 elsewhere, and nothing is said.
    matrix, vector = system(6, 10.0, 0)
    rate = 2.5 / float(torch.linalg.eigvalsh(matrix).max())
    _, outcome = solve(inverse.neumann(terms, rate), matrix, vector)
    assert outcome.status is Status.DIVERGED
    assert "2 / (largest eigenvalue" in outcome.message


def test_neumann_multiplies_the_sum_by_the_rate():
    # Without the factor the answer is wrong by 1 / rate, which a tuned learning rate hides.
    matrix, vector = system(4, 5.0, 1)
    answer, _ = solve(inverse.neumann(2000, 0.1), matrix, vector)
    assert torch.allclose(answer, torch.linalg.solve(matrix, vector), rtol=1e-10)


SOLVERS = [
    inverse.cg(),
    inverse.neumann(rate=0.1),
    inverse.neumann(rate="auto"),
    inverse.nystrom(),
    inverse.warm_started(inverse.identity(rate=0.1)),
    inverse.identity(rate=0.1),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.label)
@pytest.mark.parametrize("entries", [[torch.nan] * 3, [1.0, torch.nan, 1.0]], ids=["all", "one"])
def test_nan_in_the_vector_is_never_turned_into_zero(solver, entries):
    answer, _ = solve(solver, torch.eye(3).double(), torch.tensor(entries).double())
    assert torch.isnan(answer).any()


@pytest.mark.parametrize("solver", SOLVERS[:4], ids=lambda solver: solver.label)
def test_nan_in_the_hessian_is_never_turned_into_zero(solver):
    matrix = torch.eye(3).double()
    matrix[1, 1] = torch.nan
    answer, outcome = solve(solver, matrix, torch.ones(3).double())
    assert torch.isnan(answer).any()
    assert outcome.failed
