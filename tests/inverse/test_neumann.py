import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo import Context, ResponseError, Status, inverse
from mlo.testing.strategies import conditions, seeds
from tests.programs import system


def solve(matrix, vector, rates=None, **options):
    """Solve with the vector split in two, so that each half may have a rate of its own."""
    half = len(vector) // 2

    def hvp(direction):
        image = matrix @ torch.cat([direction["a"], direction["b"]])
        return {"a": image[:half], "b": image[half:]}

    context = Context(problem="x", rates=rates or {})
    given = {"a": vector[:half], "b": vector[half:]}
    answer, outcome = inverse.neumann(**options)(hvp, given, context)
    return torch.cat([answer["a"], answer["b"]]), outcome


@settings(max_examples=30)
@given(st.integers(2, 8), conditions, seeds, st.integers(1, 30), st.floats(0.1, 1.9))
def test_the_error_is_the_power_of_the_contraction(size, condition, seed, terms, fraction):
    matrix, vector = system(size, condition, seed)
    rate = fraction / float(torch.linalg.eigvalsh(matrix).max())
    answer, outcome = solve(matrix, vector, terms=terms, rate=rate)
    contraction = torch.eye(size, dtype=torch.float64) - rate * matrix
    solution = torch.linalg.solve(matrix, vector)
    error = torch.linalg.matrix_power(contraction, terms) @ solution
    assert torch.allclose(solution - answer, error, rtol=1e-9, atol=1e-12)
    assert outcome.status is not Status.DIVERGED
    assert outcome.iterations == terms - 1


@settings(max_examples=30)
@given(st.integers(2, 8), conditions, seeds, st.floats(0.01, 1.0), st.integers(1, 30))
def test_with_one_rate_a_parameter_the_error_is_the_power_of_their_contraction(
    size, condition, seed, ratio, terms
):
    matrix, vector = system(size, condition, seed)
    rate = 1 / float(torch.linalg.eigvalsh(matrix).max())
    rates = {"a": rate, "b": ratio * rate}
    answer, outcome = solve(matrix, vector, rates, terms=terms)
    half = size // 2
    diagonal = torch.ones(size, dtype=torch.float64)
    diagonal[:half], diagonal[half:] = rates["a"], rates["b"]
    contraction = torch.eye(size).double() - diagonal[:, None] * matrix
    solution = torch.linalg.solve(matrix, vector)
    error = torch.linalg.matrix_power(contraction, terms) @ solution
    assert torch.allclose(solution - answer, error, rtol=1e-9, atol=1e-12)
    assert outcome.status is not Status.DIVERGED


def test_one_rate_a_parameter_converges_to_the_same_solution():
    matrix, vector = system(4, 5.0, 0)
    answer, outcome = solve(matrix, vector, {"a": 0.2, "b": torch.tensor(0.03)}, terms=3000)
    assert torch.allclose(answer, torch.linalg.solve(matrix, vector), rtol=1e-10)
    assert outcome.status is Status.CONVERGED


@settings(max_examples=30)
@given(st.integers(2, 8), conditions, seeds, st.floats(2.05, 20))
def test_a_rate_above_two_over_the_largest_eigenvalue_is_reported(size, condition, seed, fraction):
    matrix, vector = system(size, condition, seed)
    rate = fraction / float(torch.linalg.eigvalsh(matrix).max())
    _, outcome = solve(matrix, vector, terms=150, rate=rate)
    assert outcome.failed
    assert outcome.status in (Status.DIVERGED, Status.NON_FINITE)


@pytest.mark.parametrize(("fraction", "diverged"), [(1.99, False), (2.01, True)])
def test_the_bound_on_the_rate_is_sharp(fraction, diverged):
    matrix, vector = system(5, 3.0, 1)
    rate = fraction / float(torch.linalg.eigvalsh(matrix).max())
    _, outcome = solve(matrix, vector, terms=300, rate=rate)
    assert (outcome.status is Status.DIVERGED) == diverged
    assert ("2 / (largest eigenvalue" in outcome.message) == diverged


def test_the_residual_is_that_of_the_series_one_term_shorter():
    matrix, vector = system(5, 10.0, 2)
    shorter, _ = solve(matrix, vector, terms=6, rate=0.05)
    _, outcome = solve(matrix, vector, terms=7, rate=0.05)
    expected = (vector - matrix @ shorter).norm() / vector.norm()
    assert outcome.residual == pytest.approx(float(expected), rel=1e-10)
    assert outcome.status is Status.TRUNCATED


def test_one_term_is_the_identity():
    matrix, vector = system(4, 10.0, 3)
    answer, outcome = solve(matrix, vector, {"a": 0.5, "b": 0.25}, terms=1)
    assert torch.equal(answer, torch.cat([0.5 * vector[:2], 0.25 * vector[2:]]))
    assert outcome.iterations == 0


def test_a_missing_rate_is_named():
    matrix, vector = system(4, 10.0, 3)
    message = "problem 'x': the response needs a learning rate for 'b', got none; give the problem"
    with pytest.raises(ResponseError, match=message):
        solve(matrix, vector, {"a": 0.5}, terms=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": 0}, "neumann: terms must be an integer >= 1, got 0"),
        ({"rate": 0.0}, "neumann: rate must be > 0, got 0.0"),
        ({"rate": float("inf")}, "neumann: rate must be > 0, got inf"),
        ({"rate": "Auto"}, r"rate must be .* got 'Auto' \(did you mean 'auto'\?\)"),
        ({"rate": "fast"}, "neumann: rate must be a number > 0, 'auto' or None, got 'fast'$"),
        ({"damping": -1.0}, "neumann: damping must be >= 0, got -1.0"),
        ({"tolerance": -1.0}, "neumann: tolerance must be >= 0, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ResponseError, match=message):
        inverse.neumann(**options)


def test_label():
    assert inverse.neumann(terms=3).label == "neumann(terms=3)"
    assert inverse.neumann(terms=3, rate=0.1).label == "neumann(terms=3, rate=0.1)"
    damped = inverse.neumann(terms=3, rate="auto", damping=0.5)
    assert damped.label == "neumann(terms=3, rate='auto', damping=0.5)"


def test_a_zero_hessian_is_reported():
    still = {"w": torch.ones(2).double()}
    _, outcome = inverse.neumann(5, 0.1)(lambda w: {"w": 0 * w["w"]}, still)
    assert outcome.status is Status.ZERO_CURVATURE
    assert outcome.residual == 1.0


@settings(max_examples=30)
@given(st.integers(2, 8), conditions, seeds, st.integers(1, 10), st.floats(0.01, 5.0))
def test_damping_is_added_to_the_diagonal(size, condition, seed, terms, damping):
    matrix, vector = system(size, condition, seed)
    shifted = matrix + damping * torch.eye(size).double()
    rate = 1 / float(torch.linalg.eigvalsh(shifted).max())
    answer, outcome = solve(matrix, vector, terms=terms, rate=rate, damping=damping)
    expected, other = solve(shifted, vector, terms=terms, rate=rate)
    assert torch.allclose(answer, expected, rtol=1e-10, atol=1e-12)
    assert outcome.residual == pytest.approx(other.residual, rel=1e-8, abs=1e-12)


def test_equal_rates_of_all_parameters_are_one_rate():
    matrix, vector = system(6, 10.0, 4)
    one, _ = solve(matrix, vector, terms=6, rate=0.05)
    same, _ = solve(matrix, vector, {"a": 0.05, "b": 0.05}, terms=6)
    lr = torch.tensor(0.05).double()
    tensor, _ = solve(matrix, vector, {"a": lr, "b": lr}, terms=6)
    assert torch.equal(one, same)
    assert torch.allclose(one, tensor, rtol=1e-12)


def test_a_rate_of_each_entry_is_used():
    matrix, vector = system(4, 5.0, 5)
    rates = {"a": torch.tensor([0.1, 0.2]).double(), "b": 0.05}
    answer, _ = solve(matrix, vector, rates, terms=3000)
    assert torch.allclose(answer, torch.linalg.solve(matrix, vector), rtol=1e-10)


def test_growth_that_sets_in_late_is_seen():
    # The part that grows is 1e-6 of the vector and is not yet half of the remainder.
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, 3.0])).double()
    vector = torch.tensor([1.0, 1.0, 1.0, 1e-6]).double()
    _, early = solve(matrix, vector, terms=5, rate=0.9)
    _, late = solve(matrix, vector, terms=20, rate=0.9)
    assert early.status is Status.TRUNCATED
    assert late.status is Status.DIVERGED


def test_an_overflow_is_reported():
    matrix = torch.diag(torch.tensor([1.0, 1e30])).double()
    answer, outcome = solve(matrix, torch.ones(2).double(), terms=60, rate=1.0)
    assert outcome.status is Status.NON_FINITE
    assert not torch.isfinite(answer).all()
