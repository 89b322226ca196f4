import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo import Context, ResponseError, Status, inverse
from mlo.testing.strategies import conditions, seeds
from tests.programs import system

CONTEXT = Context(problem="x")
# The name mlo.inverse.cg is the function.
module = importlib.import_module("mlo.inverse.cg")


def solve(matrix, vector, **options):
    def hvp(direction):
        return {"w": matrix @ direction["w"]}

    answer, outcome = inverse.cg(**options)(hvp, {"w": vector}, CONTEXT)
    return answer["w"], outcome


@pytest.fixture(params=[True, False], ids=["leaves early", "masks finished steps"])
def either_loop(request, monkeypatch):
    """Run as on a CPU, and as on an accelerator, where no number may be waited for."""
    monkeypatch.setattr(module, "synchronous", lambda device: request.param)


@settings(max_examples=40)
@given(st.integers(1, 8), conditions, seeds)
def test_as_many_steps_as_dimensions_solve_the_system(size, condition, seed):
    matrix, vector = system(size, condition, seed)
    answer, outcome = solve(matrix, vector, steps=3 * size)
    assert torch.allclose(answer, torch.linalg.solve(matrix, vector), rtol=1e-9, atol=1e-12)
    assert outcome.status is Status.CONVERGED
    assert outcome.residual < 1e-11


@settings(max_examples=40)
@given(st.integers(2, 8), conditions, seeds, st.data())
def test_each_iterate_is_the_best_of_its_krylov_space(size, condition, seed, data):
    # The law that defines the method: w minimises ½wᵀHw - vᵀw over span{v, Hv, ...}.
    steps = data.draw(st.integers(1, size - 1))
    matrix, vector = system(size, condition, seed)
    answer, _ = solve(matrix, vector, steps=steps, tolerance=0.0)
    powers = [torch.linalg.matrix_power(matrix / condition, k) @ vector for k in range(steps)]
    basis, _ = torch.linalg.qr(torch.stack(powers, dim=1))
    best = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ vector)
    assert torch.allclose(answer, best, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("either_loop")
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_a_multiple_of_the_identity_converges_in_one_step(steps):
    vector = torch.tensor([1.0, -2.0, 3.0]).double()
    answer, outcome = solve(4 * torch.eye(3).double(), vector, steps=steps)
    assert torch.equal(answer, vector / 4)
    assert outcome.converged
    assert outcome.residual == 0.0
    assert outcome.iterations == 1


@pytest.mark.usefixtures("either_loop")
@pytest.mark.parametrize("tolerance", [None, 0.0])
def test_steps_beyond_exact_convergence_do_no_harm(tolerance):
    matrix, vector = system(4, 10.0, 0)
    answer, outcome = solve(matrix, vector, steps=500, tolerance=tolerance)
    assert torch.allclose(answer, torch.linalg.solve(matrix, vector), rtol=1e-11)
    assert outcome.iterations <= (8 if tolerance is None else 500)


@pytest.mark.usefixtures("either_loop")
def test_a_zero_vector_needs_no_product():
    answer, outcome = solve(torch.eye(3).double(), torch.zeros(3).double())
    assert torch.equal(answer, torch.zeros(3).double())
    assert outcome.status is Status.CONVERGED
    assert outcome.iterations == 0


@pytest.mark.usefixtures("either_loop")
def test_negative_curvature_ends_the_solve_at_the_last_good_iterate():
    # v = (1, 1): first curvature 3 - 1 > 0, then the search direction meets the negative one.
    matrix, vector = torch.diag(torch.tensor([3.0, -1.0])).double(), torch.ones(2).double()
    one, _ = solve(matrix, vector, steps=1)
    answer, outcome = solve(matrix, vector, steps=10)
    assert outcome.status is Status.NEGATIVE_CURVATURE
    assert torch.equal(answer, one)
    assert outcome.iterations == 2
    assert "negative curvature" in outcome.message


@pytest.mark.usefixtures("either_loop")
def test_negative_curvature_at_once_gives_zero_and_says_so():
    answer, outcome = solve(-torch.eye(2).double(), torch.ones(2).double())
    assert outcome.status is Status.NEGATIVE_CURVATURE
    assert torch.equal(answer, torch.zeros(2).double())


@pytest.mark.usefixtures("either_loop")
def test_a_direction_without_curvature_is_reported():
    matrix, vector = torch.diag(torch.tensor([2.0, 0.0])).double(), torch.tensor([0.0, 1]).double()
    answer, outcome = solve(matrix, vector)
    assert outcome.status is Status.ZERO_CURVATURE
    assert torch.equal(answer, torch.zeros(2).double())
    assert outcome.residual == 1.0


@pytest.mark.usefixtures("either_loop")
def test_a_solve_that_ends_early_reports_its_residual():
    matrix, vector = system(6, 100.0, 1)
    answer, outcome = solve(matrix, vector, steps=2)
    residual = (vector - matrix @ answer).norm() / vector.norm()
    assert outcome.status is Status.TRUNCATED
    assert outcome.residual == pytest.approx(float(residual), rel=1e-9)
    assert not outcome.converged
    assert not outcome.failed


def test_damping_is_added_to_the_diagonal():
    matrix, vector = system(5, 10.0, 2)
    answer, _ = solve(matrix, vector, steps=20, damping=0.7)
    expected = torch.linalg.solve(matrix + 0.7 * torch.eye(5).double(), vector)
    assert torch.allclose(answer, expected, rtol=1e-10)


def test_tolerance_ends_the_solve():
    matrix, vector = system(6, 100.0, 3)
    _, loose = solve(matrix, vector, steps=20, tolerance=0.5)
    _, tight = solve(matrix, vector, steps=20)
    assert loose.converged
    assert tight.iterations > loose.iterations
    assert loose.residual <= 0.5


def test_both_loops_give_the_same_to_rounding(monkeypatch):
    matrix, vector = system(5, 30.0, 4)
    answers = []
    for leaves_early in (True, False):
        monkeypatch.setattr(module, "synchronous", lambda device, eager=leaves_early: eager)
        answers.append(solve(matrix, vector, steps=40)[0])
    # One of them multiplies and adds in one rounding.
    assert torch.allclose(*answers, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "cg: steps must be an integer >= 1, got 0"),
        ({"damping": -1.0}, "cg: damping must be >= 0, got -1.0"),
        ({"damping": float("nan")}, "cg: damping must be >= 0, got nan"),
        ({"tolerance": -0.1}, "cg: tolerance must be >= 0, got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ResponseError, match=message):
        inverse.cg(**options)


def test_label():
    assert inverse.cg(steps=5).label == "cg(steps=5)"
    assert inverse.cg(steps=5, damping=0.01).label == "cg(steps=5, damping=0.01)"


@pytest.mark.usefixtures("either_loop")
@given(seed=seeds, missing=st.integers(1, 3))
@settings(max_examples=25)
def test_a_singular_hessian_does_not_explode(seed, missing):
    """Rounding leaves about 1e-31 where the curvature is zero; a step by it would be 1e140 long."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(8, 8 - missing, generator=generator, dtype=torch.float64)
    vector = torch.randn(8, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.T
    answer, outcome = solve(matrix, vector, steps=30)
    smallest = torch.linalg.eigvalsh(matrix)[missing].item()
    assert answer.norm() <= 10 * vector.norm() / smallest
    assert outcome.status is Status.ZERO_CURVATURE
    assert outcome.residual <= 1.0
    assert torch.allclose(
        (vector - matrix @ answer).norm() / vector.norm(),
        torch.tensor(outcome.residual).double(),
        rtol=1e-6,
    )


@pytest.mark.usefixtures("either_loop")
@given(seed=seeds, steps=st.integers(1, 30), missing=st.integers(1, 6))
@settings(max_examples=40)
def test_whatever_happens_the_reported_residual_is_that_of_the_answer(seed, steps, missing):
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(7, 7 - missing, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.T - 0.1 * (seed % 3) * torch.eye(7).double()
    vector = torch.randn(7, generator=generator, dtype=torch.float64)
    answer, outcome = solve(matrix, vector, steps=steps)
    residual = (vector - matrix @ answer).norm() / vector.norm()
    assert outcome.residual == pytest.approx(float(residual), rel=1e-6, abs=1e-9)


@pytest.mark.usefixtures("either_loop")
def test_the_vector_and_the_images_are_only_read():
    matrix, vector = system(6, 50.0, 5)
    untouched, images = vector.clone(), []

    def hvp(direction):
        images.append((matrix @ direction["w"], matrix @ direction["w"]))
        return {"w": images[-1][0]}

    inverse.cg(6)(hvp, {"w": vector}, CONTEXT)
    assert torch.equal(vector, untouched)
    assert all(torch.equal(image, copy) for image, copy in images)


@pytest.mark.usefixtures("either_loop")
def test_a_product_may_return_its_own_argument():
    answer, outcome = inverse.cg(4)(lambda w: w, {"w": torch.arange(5.0).double()}, CONTEXT)
    assert torch.equal(answer["w"], torch.arange(5.0).double())
    assert outcome.iterations == 1


@pytest.mark.usefixtures("either_loop")
def test_no_graph_is_held():
    matrix, vector = system(4, 5.0, 6)
    matrix.requires_grad_()
    answer, outcome = solve(matrix, vector.requires_grad_(), steps=3)
    assert not answer.requires_grad
    assert not torch.as_tensor(outcome.relative_residual).requires_grad


@pytest.mark.usefixtures("either_loop")
def test_an_empty_vector_has_an_empty_answer():
    answer, outcome = inverse.cg(3)(lambda w: w, {}, CONTEXT)
    assert answer == {}
    assert outcome.converged


def test_a_solver_can_be_used_by_itself():
    answer, outcome = inverse.cg(3)(lambda w: {"w": 2 * w["w"]}, {"w": torch.ones(2)})
    assert outcome.converged
    assert torch.allclose(answer["w"], torch.full((2,), 0.5))
