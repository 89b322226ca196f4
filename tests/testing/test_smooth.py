"""The reference of programs that are no quadratics."""

import pytest
import torch
from hypothesis import given, settings

import mlo
from mlo.testing.quadratic import UPPER
from mlo.testing.smooth import declare_smooth, random_smooth, smooth_closed_form
from mlo.testing.strategies import SHAPES, known, smooth_programs
from tests.programs import flat, relative_error


@settings(max_examples=15)
@given(smooth_programs)
def test_the_gradient_is_the_difference_of_the_solved_loss(program):
    start = program.base.start
    direction = torch.ones_like(start) / len(start) ** 0.5

    def solved_loss(step):
        upper = start + step * direction
        return float(program.loss(UPPER, {**program.solution(upper), UPPER: upper}))

    def central(step):
        return (solved_loss(step) - solved_loss(-step)) / (2 * step)

    expected = float(program.gradient() @ direction)
    extrapolated = (4 * central(5e-4) - central(1e-3)) / 3
    scale = abs(expected) + abs(solved_loss(0.0)) + float(program.gradient().norm())
    assert extrapolated == pytest.approx(expected, abs=1e-7 * scale)


@settings(max_examples=15)
@given(smooth_programs)
def test_every_lower_gradient_is_zero_at_the_solution(program):
    graph = declare_smooth(program)
    for name in program.base.lower:
        modules = {n: graph.problem(n).module for n in graph.reads(name)}
        value = graph.problem(name).loss(**modules)
        found = torch.autograd.grad(value, list(modules[name].parameters()))
        assert float(torch.cat([g.reshape(-1) for g in found]).norm()) < 1e-10


@settings(max_examples=20)
@given(known(response=mlo.exact(), among=smooth_programs))
def test_exact_responses_equal_the_reference(known):
    found = mlo.hypergradient(known.graph, known.target).gradient
    assert relative_error(found, known.gradient) < 1e-9


def test_second_derivatives_depend_on_the_point():
    program = random_smooth({"x": 3, UPPER: 2}, SHAPES["bilevel"], seed=0)
    graph = declare_smooth(program, {"x": mlo.exact()})
    at_solution = flat(mlo.hypergradient(graph, UPPER).gradient)
    expected = flat(smooth_closed_form(program, graph))
    with torch.no_grad():
        for parameter in graph.problem("x").module.parameters():
            parameter.add_(0.5)
    elsewhere = flat(mlo.hypergradient(graph, UPPER).gradient)
    assert float((elsewhere - expected).norm()) > 1e4 * float((at_solution - expected).norm())
