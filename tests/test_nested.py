"""Nested programs, a → b*(a) → c*(b), against dense references that know nothing of sweeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlo
from mlo import Graph, Problem, hypergradient
from tests.programs import Vector

SIZE_A, SIZE_B, SIZE_C, SIZE_D = 2, 3, 4, 2


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def hessian_of(function):
    return torch.func.jacrev(torch.func.grad(function))


def positive(generator, size, scale=1.0):
    square = normal(generator, size, size)
    return square @ square.T / size + scale * torch.eye(size, dtype=torch.float64)


class Smooth:
    """Losses with non-zero third derivatives; all lower Hessians are positive definite.

    g_c(c; b, a) strongly convex in c; g_b(b; c, a) strongly convex once c = c*(b, a) is put in.
    """

    def __init__(self, seed, *, direct=True):
        g = torch.Generator().manual_seed(seed)
        self.hc, self.hb = positive(g, SIZE_C), positive(g, SIZE_B, scale=4.0)
        self.cb, self.ca = normal(g, SIZE_C, SIZE_B) / 3, normal(g, SIZE_C, SIZE_A) / 3
        self.ba, self.bc = normal(g, SIZE_B, SIZE_A), normal(g, SIZE_B, SIZE_C) / 4
        self.lc, self.lb = normal(g, SIZE_C), normal(g, SIZE_B)
        self.start = normal(g, SIZE_A)
        self.direct = direct
        self.last_c = torch.zeros(SIZE_C, dtype=torch.float64)
        self.last_b = torch.zeros(SIZE_B, dtype=torch.float64)
        self.jacobian = None

    def c(self, c, b, a):
        force = self.cb @ b + (self.ca @ a if self.direct else 0) + self.lc
        return c @ self.hc @ c / 2 + (1 + c.square()).log().sum() / 4 + c @ force.sin()

    def b(self, b, c, a):
        quadratic = b @ self.hb @ b / 2 + b @ (self.ba @ a + self.lb)
        return quadratic + (b @ self.bc @ c).tanh() + c.square().sum() / 8

    def upper(self, a, b, c):
        return b.square().sum() + (c.exp() * 0.3).sum() + a.sin().sum() + b[0] * c[0]

    # The reference: Newton's method to rounding, then dense derivatives of what it solves.

    def solve_c(self, b, a):
        c = self.last_c
        for _ in range(50):
            gradient = torch.func.grad(self.c)(c, b, a)
            move = torch.linalg.solve(hessian_of(self.c)(c, b, a), gradient)
            c = c - move
            if move.norm() < 1e-13:
                break
        self.last_c = c
        return c

    def stationarity_b(self, b, a):
        """Return the gradient of the reduced objective, and c*."""
        c = self.solve_c(b, a)
        hessian = hessian_of(self.c)(c, b, a)
        mixed = torch.func.jacrev(torch.func.grad(self.c), argnums=1)(c, b, a)
        by_b, by_c = torch.func.grad(self.b, argnums=(0, 1))(b, c, a)
        return by_b - mixed.T @ torch.linalg.solve(hessian, by_c), c

    def solve_b(self, a):
        b = self.last_b
        for _ in range(100):
            gradient, _ = self.stationarity_b(b, a)
            # The same Jacobian serves until it no longer helps: only the root has to be exact.
            if self.jacobian is None:
                step = 1e-5
                columns = [
                    self.stationarity_b(b + step * e, a)[0]
                    - self.stationarity_b(b - step * e, a)[0]
                    for e in torch.eye(SIZE_B, dtype=torch.float64)
                ]
                self.jacobian = torch.stack(columns, 1) / (2 * step)
            move = torch.linalg.solve(self.jacobian, gradient)
            b = b - move
            if move.norm() < 1e-13:
                break
            if move.norm() > 1e-3:
                self.jacobian = None
        self.last_b = b
        return b

    def value(self, a):
        b = self.solve_b(a)
        return self.upper(a, b, self.solve_c(b, a))

    def gradient(self):
        """Central differences of the solved program, extrapolated: error O(step⁴)."""

        def difference(step):
            return torch.stack(
                [
                    (self.value(self.start + step * e) - self.value(self.start - step * e))
                    / (2 * step)
                    for e in torch.eye(SIZE_A, dtype=torch.float64)
                ]
            )

        return (4 * difference(5e-4) - difference(1e-3)) / 3

    def graph(self, response_b, response_c, *, upper_reads=("a", "b", "c")):
        a, b, c = Vector(*self.start), Vector(*[0.0] * SIZE_B), Vector(*[0.0] * SIZE_C)
        with torch.no_grad():
            b.value.copy_(self.solve_b(self.start))
            c.value.copy_(self.solve_c(b.value.detach(), self.start))
        return Graph(
            Problem(
                name="c",
                module=c,
                loss=lambda c, b, a: self.c(c.value, b.value, a.value),
                response=response_c,
            ),
            Problem(
                name="b",
                module=b,
                loss=lambda b, c, a: self.b(b.value, c.value, a.value),
                response=response_b,
            ),
            Problem(
                name="a",
                module=a,
                loss=lambda a, b, c: self.upper(a.value, b.value, c.value),
            ),
        )


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("direct", [True, False], ids=["a enters c too", "a enters b alone"])
@pytest.mark.parametrize(
    ("response_b", "response_c"),
    [
        (mlo.exact(), mlo.exact()),
        (mlo.cg(20), mlo.cg(20)),
        (mlo.cg(20), mlo.neumann(400, 0.3)),
        pytest.param(mlo.neumann(400, 0.1), mlo.cg(20), marks=pytest.mark.slow),
    ],
    ids=lambda r: r.label,
)
@settings(max_examples=3)
@given(seed=st.integers(0, 10_000))
def test_a_nested_program_equals_differences_of_the_solved_program(
    response_b, response_c, direct, seed
):
    program = Smooth(seed, direct=direct)
    found = hypergradient(program.graph(response_b, response_c), "a")
    assert relative(found.gradient["value"], program.gradient()) < 1e-8
    assert list(found.outcomes) == ["c", "b"]
    assert all(outcome.converged for outcome in found.outcomes.values())


def test_dropping_the_inner_path_gives_another_answer():
    """The reference would not notice a term that is always zero."""
    program = Smooth(0)
    whole = hypergradient(program.graph(mlo.exact(), mlo.exact()), "a").gradient["value"]
    partial = hypergradient(program.graph(mlo.exact(), mlo.constant()), "a").gradient["value"]
    assert relative(partial, whole) > 0.01


@pytest.mark.parametrize(
    ("response_b", "response_c"),
    [
        (mlo.cg(20, product="finite_difference"), mlo.exact()),
        (mlo.cg(20, product=mlo.FiniteDifference(radius=0.02)), mlo.exact()),
    ],
    ids=["radius 0.01", "radius 0.02"],
)
def test_finite_differences_see_the_inner_solution_move(response_b, response_c):
    program = Smooth(1)
    exact = hypergradient(program.graph(mlo.exact(), mlo.exact()), "a").gradient["value"]
    found = hypergradient(program.graph(response_b, response_c), "a").gradient["value"]
    assert relative(found, exact) < 1e-3


def test_inner_products_may_be_differences():
    program = Smooth(4)
    exact = hypergradient(program.graph(mlo.exact(), mlo.exact()), "a").gradient["value"]
    inner = mlo.cg(20, product=mlo.FiniteDifference(radius=1e-4))
    found = hypergradient(program.graph(mlo.exact(), inner), "a").gradient["value"]
    assert relative(found, exact) < 1e-6


def test_halving_the_radius_quarters_the_error_of_a_nested_difference():
    program = Smooth(2)
    exact = hypergradient(program.graph(mlo.exact(), mlo.exact()), "a").gradient["value"]

    def error(radius):
        response = mlo.exact(product=mlo.FiniteDifference(radius=radius))
        return relative(
            hypergradient(program.graph(response, mlo.exact()), "a").gradient["value"], exact
        )

    assert error(0.08) / error(0.04) == pytest.approx(4, rel=0.1)


def test_the_middle_problem_has_its_own_reduced_gradient():
    program = Smooth(3)
    graph = program.graph(mlo.exact(), mlo.exact())
    with torch.no_grad():
        graph.problem("b").module.value.add_(0.1)
        b = graph.problem("b").module.value.detach()
        graph.problem("c").module.value.copy_(program.solve_c(b, program.start))
    expected, _ = program.stationarity_b(b, program.start)
    assert relative(hypergradient(graph, "b").gradient["value"], expected) < 1e-10


@settings(max_examples=3)
@given(seed=st.integers(0, 10_000))
def test_an_approximate_inverse_takes_the_place_of_the_inverse_throughout(seed):
    """With W = ξI for c: the exact formula of the reduced problem, W for H⁻¹ in every place."""
    rate = 0.37
    program = Smooth(seed)
    found = hypergradient(program.graph(mlo.exact(), mlo.identity(rate)), "a").gradient["value"]
    a = program.start
    b = program.solve_b(a)
    c0 = program.solve_c(b, a)

    def solution_c(b, a):
        """c0 at the point; derivative -W ∂²g: W has derivative -W dH W, as of (ξ⁻¹I + H - H0)⁻¹."""
        hessian = hessian_of(program.c)
        base = hessian(c0, program.solve_b(program.start), program.start)
        eye = torch.eye(SIZE_C, dtype=torch.float64)

        def gradient(c, b, a):
            return torch.func.grad(program.c)(c, b, a) + (eye / rate - base) @ (c - c0)

        c = c0
        for _ in range(60):
            c = c - torch.linalg.solve(
                torch.func.jacrev(gradient)(c, b, a), gradient(c, b, a) - gradient(c0, b0, a0)
            )
        return c

    b0, a0 = b, a

    def reduced(b, a):
        c = solution_c(b.detach(), a.detach())
        w_inv = (
            hessian_of(program.c)(c, b, a)
            - hessian_of(program.c)(c0, b0, a0)
            + torch.eye(SIZE_C, dtype=torch.float64) / rate
        )
        mixed = torch.func.jacrev(torch.func.grad(program.c), argnums=(1, 2))(c, b, a)
        by_b, by_c, by_a = torch.func.grad(program.b, argnums=(0, 1, 2))(b, c, a)
        adjoint = torch.linalg.solve(w_inv, by_c)
        return by_b - mixed[0].T @ adjoint, by_a - mixed[1].T @ adjoint, c

    step = 1e-5

    def derivative(function):
        def column(e_b, e_a):
            return (
                function(b + step * e_b, a + step * e_a) - function(b - step * e_b, a - step * e_a)
            ) / (2 * step)

        zero_b, zero_a = torch.zeros_like(b), torch.zeros_like(a)
        by_b = torch.stack([column(e, zero_a) for e in torch.eye(SIZE_B).double()], 1)
        by_a = torch.stack([column(zero_b, e) for e in torch.eye(SIZE_A).double()], 1)
        return by_b, by_a

    hessian_b, mixed_ba = derivative(lambda b, a: reduced(b, a)[0])
    by_a, by_b, by_c = torch.func.grad(program.upper, argnums=(0, 1, 2))(a, b, c0)
    mixed = torch.func.jacrev(torch.func.grad(program.c), argnums=(1, 2))(c0, b, a)
    total_b = by_b - rate * mixed[0].T @ by_c
    total_a = by_a - rate * mixed[1].T @ by_c
    expected = total_a - mixed_ba.T @ torch.linalg.solve(hessian_b, total_b)
    assert relative(found, expected) < 1e-6
