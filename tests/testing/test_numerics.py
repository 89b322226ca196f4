"""The numerical tools of the checker, against what is known exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.testing.difference import difference, directions
from mlo.testing.double import InFloat64
from mlo.testing.linear import derivative_along, ritz_values, solve_symmetric
from mlo.testing.newton import minimise, newton
from mlo.testing.strategies import conditions, seeds
from tests.programs import system


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=20)
@given(st.integers(1, 12), conditions, seeds)
def test_conjugate_gradients_and_ritz_values_of_a_random_matrix(size, condition, seed):
    matrix, vector = system(size, condition, seed)
    found = solve_symmetric(lambda v: matrix @ v, vector)
    assert found.residual < 1e-9
    assert float((matrix @ found.answer - vector).norm()) < 1e-8 * float(vector.norm())
    values = torch.linalg.eigvalsh(matrix)
    ritz = ritz_values(lambda v: matrix @ v, vector)
    assert ritz.smallest == pytest.approx(float(values[0]), rel=1e-6)
    assert ritz.largest == pytest.approx(float(values[-1]), rel=1e-6)


def test_an_indefinite_regular_system_is_solved():
    scales = double(1.0, -2.0, 5.0)
    found = solve_symmetric(lambda v: scales * v, double(1.0, 1.0, 1.0))
    assert found.answer.tolist() == pytest.approx([1.0, -0.5, 0.2])


def test_a_singular_system_admits_that_it_is_not_solved():
    found = solve_symmetric(lambda v: double(1.0, 0.0) * v, double(1.0, 1.0))
    assert found.residual > 0.5


@pytest.mark.parametrize("radius", [1e-2, 1e-3])
def test_the_error_of_a_product_falls_as_the_square_of_its_radius(radius):
    def error(size):
        point = double(0.3, 0.7)
        found = derivative_along(torch.exp, point, double(1.0, 1.0), radius=size)
        return float((found - point.exp()).norm())

    assert error(radius) / error(radius / 2) == pytest.approx(4.0, rel=1e-2)


@settings(max_examples=20)
@given(st.floats(-2, 2), st.floats(0.01, 0.2))
def test_the_estimated_error_bounds_the_true_one(place, step):
    def curve(width):
        return double(place + width).sin()

    found = difference(curve, curve(0.0), step=step, accuracy=double(1e-8))
    true = abs(float(found.value) - float(double(place).cos()))
    assert true <= max(float(found.error), 1e-10)
    assert not found.jump.any()


def test_a_kink_is_seen_and_its_height_measured():
    def curve(width):
        return double(width).relu() + double(width).exp()

    found = difference(curve, curve(0.0), step=1e-2, accuracy=double(1e-8))
    assert float(found.jump) == pytest.approx(1.0, abs=1e-2)


def test_directions_are_orthonormal_and_drawn_from_their_seed():
    drawn = directions(7, 4, seed=1)
    assert torch.allclose(drawn @ drawn.T, torch.eye(4, dtype=torch.float64))
    assert torch.equal(drawn, directions(7, 4, seed=1))
    assert not torch.equal(drawn, directions(7, 4, seed=2))


def test_newton_converges_quadratically():
    def gradient(x):
        return x.exp() - 2

    errors = [
        abs(float(newton(gradient, double(1.0), steps=steps).point - double(2.0).log()))
        for steps in (1, 2, 3)
    ]
    ratios = [errors[1] / errors[0] ** 2, errors[2] / errors[1] ** 2]
    assert ratios == pytest.approx([0.5, 0.5], rel=0.1)


def test_a_minimum_at_infinity_is_no_solution():
    found = minimise(lambda x: float((-x).exp().sum()), lambda x: -(-x).exp(), double(0.0))
    assert not found.converged


def test_a_nonconvex_valley_is_descended():
    def value(x):
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    def gradient(x):
        return torch.func.grad(value)(x)

    found = minimise(lambda x: float(value(x)), gradient, double(-1.2, 1.0))
    assert found.converged
    assert found.point.tolist() == pytest.approx([1.0, 1.0])


def test_products_that_are_not_the_derivative_are_not_believed():
    def gradient(x):
        return x**3 - 8

    wrong = newton(gradient, double(3.0), products=lambda point: lambda v: 0.1 * v)
    assert wrong.converged
    assert float(wrong.point) == pytest.approx(2.0)


def test_low_precision_takes_part_in_float64():
    weight = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    constant = torch.full((2,), 0.1)
    with InFloat64():
        product = weight @ constant
        assert constant.dtype is torch.float64
        halves = product.half() + torch.ones(2, dtype=torch.bfloat16)
        listed = torch.stack([constant, product])
        cast = product.to(torch.float32)
    assert {t.dtype for t in (product, halves, listed, cast)} == {torch.float64}
    assert constant.dtype is torch.float32
