"""The closed form of nested programs, against differences of the program solved from its losses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlo.testing.quadratic import UPPER, random_quadratic
from mlo.testing.strategies import NESTED, SHAPES, nested_programs, quadratics


def minimum(loss, start):
    """Return the minimum of a quadratic function, by one step of Newton's method."""
    slope = torch.func.grad(loss)(start)
    return start - torch.linalg.solve(torch.func.jacrev(torch.func.grad(loss))(start), slope)


def solved(program, names, values):
    """Return values in which each problem minimises its loss, lower ones following it.

    Written from the meaning of a nested program: the lowest problem is solved again at every point
    that the one above it tries.
    """
    if not names:
        return values
    *below, name = names

    def loss(own):
        moved = solved(program, below, {**values, name: own})
        return program.lower[name].value(name, moved)

    at_optimum = {**values, name: minimum(loss, values[name])}
    return solved(program, below, at_optimum)


def upper_loss(program, upper):
    zeros = {n: torch.zeros_like(loss.linear) for n, loss in program.lower.items()}
    values = solved(program, list(program.lower), {**zeros, UPPER: upper})
    return program.upper.value(values)


def closed_gradient(program):
    upper = program.start.clone().requires_grad_()
    value = program.upper.value({**program.solution(upper), UPPER: upper})
    return torch.autograd.grad(value, upper)[0]


@pytest.mark.parametrize("shape", NESTED)
@settings(max_examples=5)
@given(data=st.data())
def test_it_is_the_difference_of_the_solved_program(shape, data):
    program = data.draw(quadratics(NESTED[shape]))
    expected = closed_gradient(program)
    scale = float(expected.norm()) + float(program.upper.linear.norm())
    for position in range(len(program.start)):
        move = torch.zeros_like(program.start)
        move[position] = 1.0
        # Of a quadratic a central difference is exact, whatever its step.
        ahead, behind = (upper_loss(program, program.start + s * move) for s in (1, -1))
        assert float((ahead - behind) / 2 - expected[position]) == pytest.approx(
            0, abs=1e-9 * scale * (1 + float(abs(ahead)))
        )


@pytest.mark.parametrize("shape", NESTED)
@settings(max_examples=5)
@given(data=st.data())
def test_the_solution_is_the_nested_minimum(shape, data):
    program = data.draw(quadratics(NESTED[shape]))
    found = program.solution(program.start)
    again = solved(program, list(program.lower), {**found, UPPER: program.start})
    for name, value in found.items():
        assert float((again[name] - value).norm()) < 1e-9 * (1 + float(value.norm()))


@settings(max_examples=20)
@given(nested_programs)
def test_every_reduced_hessian_is_positive_definite(program):
    for name in program.lower:
        assert float(torch.linalg.eigvalsh(program.reduced_curvature(name))[0]) > 1 - 1e-6


def test_reduced_curvature_of_what_is_not_nested_is_the_curvature():
    program = random_quadratic({"x": 3, "y": 2, UPPER: 2}, SHAPES["chain upwards"], seed=1)
    for name, loss in program.lower.items():
        assert torch.equal(program.reduced_curvature(name), loss.curvature)


def test_dropping_the_reduction_would_be_seen():
    program = random_quadratic({"c": 3, "b": 2, UPPER: 2}, NESTED["nested"], seed=0)
    difference = program.reduced_curvature("b") - program.lower["b"].curvature
    assert float(difference.norm()) > 0.1
