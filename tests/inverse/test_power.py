import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo import Context, Status, inverse
from mlo.inverse.power import FIRST, LATER, largest_eigenvalue
from mlo.testing.strategies import conditions, seeds
from tests.programs import system


def times(matrix):
    def product(direction):
        return {"w": matrix @ direction["w"]}

    return product


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


@settings(max_examples=40)
@given(st.integers(1, 8), conditions, seeds)
def test_the_estimate_is_a_lower_bound_that_comes_close(size, condition, seed):
    matrix, vector = system(size, condition, seed)
    largest = float(torch.linalg.eigvalsh(matrix).max())
    context, estimates = Context(problem="x"), []
    for _ in range(5):
        estimates.append(float(largest_eigenvalue(times(matrix), {"w": vector}, context)[0]))
    assert all(estimate <= largest * (1 + 1e-12) for estimate in estimates)
    assert all(b >= a * (1 - 1e-12) for a, b in itertools.pairwise(estimates))
    # Half of it is what the rate of a Neumann series needs.
    assert estimates[0] > largest / 2


def test_the_error_falls_by_the_square_of_the_ratio_of_eigenvalues():
    # ‖H x‖ of the k-th iterate is λ₁(1 - O((λ₂/λ₁)^2k)).
    matrix, vector = diagonal(1.0, 0.8), torch.tensor([1.0, 5.0]).double()
    context, errors = Context(), []
    for _ in range(20):
        errors.append(1 - float(largest_eigenvalue(times(matrix), {"w": vector}, context)[0]))
    ratios = [b / a for a, b in itertools.pairwise(errors[10:])]
    assert ratios == pytest.approx([0.8 ** (2 * LATER)] * 9, rel=1e-3)


def test_an_eigenvector_of_a_small_eigenvalue_is_left():
    matrix, vector = diagonal(10.0, 1.0, 1.0), torch.tensor([0.0, 1.0, 0.0]).double()
    size, _ = largest_eigenvalue(times(matrix), {"w": vector}, Context())
    assert float(size) == pytest.approx(10.0, rel=1e-6)


def test_later_calls_cost_less():
    matrix, vector = system(5, 10.0, 0)
    context, calls = Context(problem="x"), []

    def product(direction):
        calls.append(1)
        return times(matrix)(direction)

    spent = [largest_eigenvalue(product, {"w": vector}, context)[1] for _ in range(3)]
    assert spent == [FIRST, LATER, LATER]
    assert len(calls) == sum(spent)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_vanishing_hessian_leaves_something_to_start_from(steps):
    context, vector = Context(problem="x"), {"w": torch.ones(3).double()}
    for _ in range(steps):
        assert largest_eigenvalue(times(diagonal(0.0, 0.0, 0.0)), vector, context)[0] == 0
    size, _ = largest_eigenvalue(times(diagonal(2.0, 1.0, 1.0)), vector, context)
    assert float(size) > 1


def test_a_hessian_that_is_not_a_number_is_not_remembered():
    context, vector = Context(problem="x"), {"w": torch.ones(2).double()}
    size, _ = largest_eigenvalue(times(diagonal(1.0, torch.nan)), vector, context)
    assert torch.isnan(size)
    assert context.memory == {}


@settings(max_examples=30)
@given(st.integers(1, 8), conditions, seeds)
def test_neumann_with_this_rate_converges_at_the_first_call(size, condition, seed):
    matrix, vector = system(size, condition, seed)
    terms = int(60 * condition)
    answer, outcome = inverse.neumann(terms, "auto")(times(matrix), {"w": vector}, Context())
    assert outcome.converged
    assert outcome.iterations == terms - 1 + FIRST
    assert torch.allclose(answer["w"], torch.linalg.solve(matrix, vector), rtol=1e-8, atol=1e-9)


def test_negative_curvature_does_not_turn_the_rate_negative():
    matrix, vector = diagonal(1.0, -10.0), {"w": torch.ones(2).double()}
    answer, outcome = inverse.neumann(4, "auto")(times(matrix), vector, Context())
    assert outcome.status is Status.DIVERGED
    # One term of the series is ξ v: the part along the positive eigenvalue keeps its sign.
    assert answer["w"][0] > 0
    one, _ = inverse.neumann(1, "auto")(times(matrix), vector, Context())
    assert one["w"].tolist() == pytest.approx([0.1, 0.1], rel=1e-6)


def test_damping_counts_in_the_largest_eigenvalue():
    vector = {"w": torch.ones(2).double()}
    answer, _ = inverse.neumann(1, "auto", damping=6.0)(times(diagonal(4.0, 4.0)), vector)
    assert answer["w"].tolist() == pytest.approx([0.1, 0.1], rel=1e-12)


@pytest.mark.parametrize("terms", [1, 3])
def test_a_hessian_that_is_not_a_number_reaches_the_answer(terms):
    vector = {"w": torch.ones(2).double()}
    answer, _ = inverse.neumann(terms, "auto")(times(diagonal(1.0, torch.nan)), vector)
    assert torch.isnan(answer["w"]).all()
