import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo import Context, Outcome, ResponseError, Status, inverse
from mlo.testing.strategies import conditions, seeds
from tests.programs import system


def call(solver, matrix, vector, context):
    def hvp(direction):
        return {"w": matrix @ direction["w"]}

    answer, outcome = solver(hvp, {"w": vector}, context)
    return answer["w"], outcome


def soba(rate, **options):
    return inverse.warm_started(inverse.identity(rate=rate), **options)


@settings(max_examples=40)
@given(
    st.integers(1, 8), conditions, seeds, st.integers(1, 4), st.integers(1, 6), st.floats(0.1, 1.9)
)
def test_the_error_is_the_power_of_the_contraction(size, condition, seed, steps, calls, fraction):
    matrix, vector = system(size, condition, seed)
    rate = fraction / float(torch.linalg.eigvalsh(matrix).max())
    solver, context = soba(rate, steps=steps), Context()
    for _ in range(calls):
        answer, outcome = call(solver, matrix, vector, context)
    contraction = torch.eye(size, dtype=torch.float64) - rate * matrix
    solution = torch.linalg.solve(matrix, vector)
    power = torch.linalg.matrix_power
    assert torch.allclose(
        solution - answer, power(contraction, steps * calls) @ solution, rtol=1e-9, atol=1e-11
    )
    before = power(contraction, steps * calls - 1) @ vector
    assert outcome.residual == pytest.approx(float(before.norm() / vector.norm()), abs=1e-10)
    assert outcome.iterations == steps - (calls == 1)


def test_it_is_neumann_as_long_as_the_vector_stays():
    matrix, vector = system(5, 10.0, 0)
    context = Context()
    for terms in range(1, 8):
        answer, _ = call(soba(0.05), matrix, vector, context)
        series, _ = call(inverse.neumann(terms, 0.05), matrix, vector, Context())
        assert torch.allclose(answer, series, rtol=1e-12)


def test_a_slowly_moving_vector_is_followed_at_the_distance_that_the_law_says():
    # With v_k = v + k·d the lag H⁻¹v_k - w_k satisfies e ← (I - ξH)(e + H⁻¹d): its limit is
    # (I - ξH)(ξH)⁻¹ H⁻¹ d.
    matrix, vector = system(4, 5.0, 1)
    drift = 0.01 * system(4, 5.0, 2)[1]
    rate, context = 0.15, Context()
    for time in range(400):
        answer, _ = call(soba(rate), matrix, vector + time * drift, context)
    lag = torch.linalg.solve(matrix, vector + 399 * drift) - answer
    scaled = rate * matrix
    identity = torch.eye(4).double()
    expected = (identity - scaled) @ torch.linalg.solve(scaled @ matrix, drift)
    assert torch.allclose(lag, expected, rtol=1e-8, atol=1e-12)


def test_corrections_by_conjugate_gradients_solve_the_rest():
    matrix, vector = system(8, 50.0, 3)
    solver, context = inverse.warm_started(inverse.cg(steps=3)), Context()
    outcomes = [call(solver, matrix, vector, context)[1] for _ in range(80)]
    answer, _ = call(solver, matrix, vector, context)
    assert outcomes[0].iterations == 3
    assert outcomes[1].iterations == 4
    assert outcomes[-1].converged
    assert torch.allclose(answer, torch.linalg.solve(matrix, vector), rtol=1e-9)


def test_where_the_solver_reports_a_residual_the_outcome_is_that_of_the_answer():
    matrix, vector = system(8, 50.0, 3)
    solver, context = inverse.warm_started(inverse.cg(steps=3)), Context()
    for _ in range(3):
        answer, outcome = call(solver, matrix, vector, context)
        residual = (vector - matrix @ answer).norm() / vector.norm()
        assert outcome.residual == pytest.approx(float(residual), rel=1e-8)


def test_the_memory_survives_a_checkpoint():
    matrix, vector = system(5, 10.0, 4)
    context = Context()
    call(soba(0.05), matrix, vector, context)
    file = io.BytesIO()
    torch.save(context.memory, file)
    file.seek(0)
    restored = Context(memory=torch.load(file, weights_only=True))
    resumed, _ = call(soba(0.05), matrix, vector, restored)
    straight, _ = call(soba(0.05), matrix, vector, context)
    assert torch.equal(resumed, straight)


def test_two_memories_do_not_mix():
    systems = [system(5, 10.0, 5), system(5, 10.0, 6)]
    contexts = [Context(problem="x"), Context(problem="x")]
    together = [[call(soba(0.05), *systems[i], contexts[i])[0] for i in (0, 1)] for _ in range(5)]
    for i in (0, 1):
        context = Context(problem="x")
        alone = [call(soba(0.05), *systems[i], context)[0] for _ in range(5)]
        assert all(torch.equal(pair[i], one) for pair, one in zip(together, alone, strict=True))


def test_an_answer_that_was_handed_out_is_not_changed_later():
    matrix, vector = system(5, 10.0, 7)
    context = Context()
    first, _ = call(soba(0.05), matrix, vector, context)
    copy = first.clone()
    call(soba(0.05), matrix, vector, context)
    assert torch.equal(first, copy)


def test_what_does_not_fit_starts_from_zero():
    context = Context()
    call(soba(0.1), *system(5, 10.0, 8), context)
    matrix, vector = system(3, 10.0, 8)
    answer, outcome = call(soba(0.1), matrix, vector, context)
    assert torch.equal(answer, 0.1 * vector)
    assert outcome.iterations == 0


def test_an_answer_that_is_not_finite_is_not_kept():
    matrix, vector = system(4, 5.0, 9)
    context = Context()
    kept, _ = call(soba(0.05), matrix, vector, context)
    answer, outcome = call(soba(0.05), matrix * torch.nan, vector, context)
    assert torch.isnan(answer).all()
    assert outcome.status is Status.NON_FINITE
    assert torch.equal(context.memory["w"]["w"], kept)


def test_a_rate_above_two_over_the_largest_eigenvalue_is_reported():
    matrix, vector = system(4, 5.0, 10)
    context = Context()
    statuses = [call(soba(1.5), matrix, vector, context)[1].status for _ in range(30)]
    assert Status.DIVERGED not in statuses[:2]
    assert statuses[-1] is Status.DIVERGED


def test_a_vector_of_the_opposite_sign_is_no_divergence():
    matrix, vector = system(4, 5.0, 11)
    context = Context()
    for sign in [1.0] * 20 + [-1.0]:
        _, outcome = call(soba(0.2), matrix, sign * vector, context)
    assert outcome.residual > 1
    assert not outcome.failed


def test_a_failure_of_the_solver_is_reported():
    vector, context = torch.ones(2).double(), Context()
    _, outcome = call(inverse.warm_started(inverse.cg()), -torch.eye(2).double(), vector, context)
    assert outcome.status is Status.NEGATIVE_CURVATURE


def test_a_plain_function_is_a_solver():
    def third(hvp, vector, context):
        return {"w": vector["w"] / 3}, Outcome(solver="third", code=Status.ONE_STEP)

    solver = inverse.warm_started(third, steps=2)
    answer, outcome = call(solver, 3 * torch.eye(2).double(), torch.ones(2).double(), Context())
    assert torch.allclose(answer, torch.full((2,), 1 / 3).double())
    assert solver.products is None
    assert solver.label == "warm_started(third, steps=2)"
    assert outcome.iterations == 1


def test_by_default_the_rate_is_the_learning_rate():
    context = Context(problem="x", rates={"w": 0.25})
    answer, _ = call(inverse.warm_started(), torch.eye(2).double(), torch.ones(2).double(), context)
    assert torch.equal(answer, torch.full((2,), 0.25).double())


def test_label_and_products():
    assert soba(0.1).label == "warm_started(identity(rate=0.1))"
    assert soba(0.1, steps=3).products == 3
    assert inverse.warm_started(inverse.cg(steps=4), steps=2).products == 10


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {"steps": 0}, "warm_started: steps must be an integer >= 1, got 0"),
        ((), {"tolerance": -1.0}, "warm_started: tolerance must be >= 0, got -1.0"),
        (("cg",), {}, "solver must be an inverse-Hessian product .* got str"),
    ],
)
def test_options_out_of_range_are_refused(arguments, options, message):
    with pytest.raises(ResponseError, match=message):
        inverse.warm_started(*arguments, **options)
