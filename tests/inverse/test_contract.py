"""What every inverse-Hessian product promises, one table for all."""

import pytest
import torch
from torch import Tensor

from mlo import Context, Outcome, ResponseError, inverse, tree
from mlo.inverse import InverseProduct

SOLVERS = [
    inverse.identity(rate=0.1),
    inverse.neumann(terms=5, rate=0.1),
    inverse.neumann(terms=1, rate=0.1),
    inverse.neumann(terms=5, rate=0.1, damping=0.1),
    inverse.neumann(terms=5, rate="auto"),
    inverse.cg(steps=8),
    inverse.cg(steps=2, damping=0.1),
    inverse.nystrom(rank=2),
    inverse.nystrom(rank=9, damping=0.01),
    inverse.warm_started(inverse.identity(rate=0.1), steps=2),
    inverse.warm_started(inverse.cg(steps=2), steps=3),
    inverse.exact(),
    inverse.exact(damping=0.1),
]
# A Krylov space and the start of a power iteration depend on the vector.
LINEAR = [s for s in SOLVERS if "cg(steps=2" not in s.label and "auto" not in s.label]
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.label)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def fresh() -> Context:
    """A context that remembers nothing: what a solver keeps must not join two tests."""
    return Context(problem="x")


def hessian(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(5, 5, generator=generator, dtype=dtype)
    return square @ square.T / 5 + torch.eye(5, dtype=dtype)


def vector(dtype: torch.dtype = torch.float64, seed: int = 1) -> tree.Params:
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(5, generator=generator, dtype=dtype)
    return {"matrix": flat[:4].reshape(2, 2).T, "number": flat[4]}


def times(matrix: Tensor):
    def hvp(direction: tree.Params) -> tree.Params:
        image = matrix @ joined(direction)
        return {"matrix": image[:4].reshape(2, 2).T, "number": image[4]}

    return hvp


def joined(direction: tree.Params) -> Tensor:
    return torch.cat([direction["matrix"].T.reshape(-1), direction["number"].reshape(1)])


@every_solver
@every_dtype
def test_the_answer_has_the_names_shapes_and_dtypes_of_the_vector(solver, dtype):
    given = vector(dtype)
    answer, outcome = solver(times(hessian(dtype)), given, fresh())
    assert list(answer) == list(given)
    assert all(answer[k].shape == given[k].shape for k in given)
    assert all(answer[k].dtype == dtype for k in given)
    assert isinstance(outcome, Outcome)
    assert outcome.solver == solver.label
    assert not outcome.failed


@every_solver
def test_the_vector_is_not_changed(solver):
    given, untouched = vector(), vector()
    solver(times(hessian()), given, fresh())
    assert all(torch.equal(given[k], untouched[k]) for k in given)


@every_solver
def test_a_zero_vector_gives_exactly_zero_and_nothing_infinite(solver):
    answer, outcome = solver(times(hessian()), tree.zeros_like(vector()), fresh())
    assert all(torch.equal(t, torch.zeros_like(t)) for t in answer.values())
    assert outcome.converged
    assert outcome.residual == 0 or outcome.residual != outcome.residual


@every_solver
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_the_answer_scales_with_the_vector(solver, factor):
    answer, outcome = solver(times(hessian()), vector(), fresh())
    scaled, other = solver(times(hessian()), tree.scaled(vector(), factor), fresh())
    expected = tree.scaled(answer, factor)
    assert all(torch.allclose(scaled[k], expected[k], rtol=1e-10, atol=0) for k in answer)
    assert other.status is outcome.status


@every_solver
def test_a_vanishing_hessian_never_crashes_and_never_claims_to_have_solved(solver):
    answer, outcome = solver(times(torch.zeros(5, 5).double()), vector(), fresh())
    assert all(torch.isfinite(t).all() for t in answer.values())
    if "damping" not in solver.label and solver.label != "identity(rate=0.1)":
        assert not outcome.converged


@every_solver
def test_no_more_products_than_announced(solver: InverseProduct):
    calls = []

    def hvp(direction):
        calls.append(direction)
        return times(hessian())(direction)

    _, outcome = solver(hvp, vector(), fresh())
    assert len(calls) == outcome.iterations
    assert len(calls) <= (5 if solver.products is None else solver.products)


@pytest.mark.parametrize("solver", LINEAR, ids=lambda solver: solver.label)
@every_dtype
def test_the_answer_is_linear_in_the_vector(solver, dtype):
    def solve(given: tree.Params) -> Tensor:
        return joined(solver(times(hessian(dtype)), given, fresh())[0])

    one, other = vector(dtype, seed=1), vector(dtype, seed=2)
    both = tree.plus(tree.scaled(one, 2.0), tree.scaled(other, -3.0))
    expected = 2.0 * solve(one) - 3.0 * solve(other)
    rounding = 1e-4 if dtype == torch.float32 else 1e-11
    assert torch.allclose(solve(both), expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("solver", LINEAR, ids=lambda solver: solver.label)
@every_dtype
def test_the_answer_is_symmetric_in_the_vector(solver, dtype):
    one, other = vector(dtype, seed=1), vector(dtype, seed=2)
    answer, _ = solver(times(hessian(dtype)), one, fresh())
    adjoint, _ = solver(times(hessian(dtype)), other, fresh())
    rounding = 1e-4 if dtype == torch.float32 else 1e-11
    assert float(joined(other) @ joined(answer)) == pytest.approx(
        float(joined(adjoint) @ joined(one)), rel=rounding, abs=rounding
    )


@every_solver
def test_what_a_product_returns_is_not_changed(solver):
    images = []

    def hvp(direction):
        image = times(hessian())(direction)
        images.append((image, {name: t.clone() for name, t in image.items()}))
        return image

    solver(hvp, vector(), fresh())
    assert all(torch.equal(image[k], copy[k]) for image, copy in images for k in copy)


@every_solver
def test_the_same_call_gives_the_same_bits_and_leaves_the_random_numbers_alone(solver):
    state = torch.get_rng_state()
    answers = [solver(times(hessian()), vector(), fresh())[0] for _ in range(2)]
    assert torch.equal(*(joined(answer) for answer in answers))
    assert torch.equal(state, torch.get_rng_state())


@every_solver
def test_the_global_random_numbers_do_not_matter(solver):
    answers = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            answers.append(joined(solver(times(hessian()), vector(), fresh())[0]))
    assert torch.equal(*answers)


@pytest.mark.parametrize(
    "solver", [s for s in SOLVERS if s.products != 0], ids=lambda solver: solver.label
)
@every_dtype
def test_a_hessian_that_is_not_a_number_is_never_hidden(solver, dtype):
    answer, outcome = solver(times(hessian(dtype) * torch.nan), vector(dtype), fresh())
    assert outcome.failed or not torch.isfinite(joined(answer)).all()


@pytest.mark.parametrize("make", [inverse.cg, inverse.neumann, inverse.exact, inverse.nystrom])
def test_no_damping_is_zero_and_not_none(make):
    with pytest.raises(ResponseError, match=r"damping must be >=? 0, got None"):
        make(damping=None)
