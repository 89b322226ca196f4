"""The reference itself, against what a solver and central differences find."""

import pytest
import torch
from hypothesis import given, settings

from mlo.testing.quadratic import (
    UPPER,
    Blocks,
    closed_form,
    declare,
    random_quadratic,
    solve,
)
from mlo.testing.strategies import programs
from tests.programs import at_solution, flat, path_sum, same_bits, snapshot


@pytest.mark.parametrize(("size", "shapes"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 2), (6, 3)])
def test_blocks_hold_a_vector_in_tensors_of_several_shapes(size, shapes):
    blocks = Blocks(size)
    vector = torch.arange(1.0, size + 1).double()
    blocks.assign(vector)
    assert torch.equal(blocks.vector(), vector)
    assert torch.equal(flat(blocks.named(vector)), vector)
    assert {n: t.shape for n, t in blocks.named(vector).items()} == {
        n: p.shape for n, p in blocks.named_parameters()
    }
    assert len({p.dim() for p in blocks.parameters()}) == shapes


@settings(max_examples=30)
@given(programs)
def test_every_lower_gradient_is_zero_at_the_solution(program):
    graph = declare(program)
    for name, loss in program.lower.items():
        modules = {n: graph.problem(n).module for n in graph.reads(name)}
        value = graph.problem(name).loss(**modules)
        gradient = torch.autograd.grad(value, list(modules[name].parameters()))
        scale = float(
            loss.linear.norm() + loss.curvature.norm() * modules[name].vector().detach().norm()
        )
        assert float(torch.cat([g.reshape(-1) for g in gradient]).norm()) < 1e-12 * scale


@settings(max_examples=30)
@given(programs)
def test_the_closed_form_is_the_sum_over_paths(program):
    inverses = {n: torch.linalg.inv(loss.curvature) for n, loss in program.lower.items()}
    expected, _ = path_sum(program, inverses, at_solution(program))
    found = flat(closed_form(program, declare(program)))
    assert float((found - expected).norm()) < 1e-10 * float(expected.norm())


@settings(max_examples=10)
@given(programs)
def test_the_jacobian_is_that_of_the_solution(program):
    def joined(upper):
        return torch.cat(list(program.solution(upper).values()))

    expected = torch.autograd.functional.jacobian(joined, program.start)
    assert torch.allclose(program.jacobian(), expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(programs)
def test_lower_hessians_are_positive_definite_and_upper_ones_symmetric(program):
    for loss in program.lower.values():
        values = torch.linalg.eigvalsh(loss.curvature)
        assert torch.equal(loss.curvature, loss.curvature.T)
        assert values.min() > 1 - 1e-9
        assert values.max() < 100 + 1e-6
    assert torch.equal(program.upper.curvature, program.upper.curvature.T)


def test_the_condition_number_is_the_one_asked_for():
    program = random_quadratic({"x": 5, UPPER: 1}, {"x": [], UPPER: ["x"]}, condition=50.0)
    values = torch.linalg.eigvalsh(program.lower["x"].curvature)
    assert float(values.max() / values.min()) == pytest.approx(50.0)


def test_the_seed_decides_and_the_global_generator_is_not_touched():
    sizes, reads = {"x": 3, UPPER: 2}, {"x": [UPPER], UPPER: ["x"]}
    torch.manual_seed(0)
    first = random_quadratic(sizes, reads, seed=1)
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert torch.rand(()) == drawn
    again, other = (random_quadratic(sizes, reads, seed=seed) for seed in (1, 2))
    assert torch.equal(first.start, again.start)
    assert not torch.equal(first.start, other.start)


def test_solve_puts_the_optimum_back():
    program = random_quadratic({"x": 4, UPPER: 2}, {"x": [UPPER], UPPER: ["x"]})
    graph = declare(program)
    solved = snapshot(graph)
    for problem in graph.problems.values():
        problem.module.assign(torch.zeros_like(problem.module.vector().detach()))
    assert not same_bits(snapshot(graph), solved)
    solve(program, graph)
    assert same_bits(snapshot(graph), solved)
