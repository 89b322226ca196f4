"""One reduction: exact where answers are linear and every rank has the lower batch, else not."""

import pytest
import torch

from mlo.bench import communication_bias
from mlo.bench.case import Settings
from mlo.bench.communication_bias import (
    LINES,
    RIDGE,
    ROWS,
    WAYS,
    answered,
    each_alone,
    lower_replicated,
    program,
    setting,
)
from mlo.response.implicit import cg, exact, neumann
from mlo.response.one_step import finite_difference, identity


def test_the_reference_is_the_closed_form():
    """dF/da = -Jᵀ H⁻¹ v with H = XᵀX/n + ridge, J = XᵀZ/n and v the slope of the upper loss."""
    given = setting(0)
    x, z, _ = given.train
    u, _, y = given.valid
    hessian = x.T @ x / ROWS + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    slope = u.T @ (u @ given.solution - y) / ROWS
    expected = -(x.T @ z / ROWS).T @ torch.linalg.solve(hessian, slope)
    found = answered(program(given, exact()), given.train, given.valid)
    assert torch.allclose(found, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("response", [identity(), neumann(terms=5), exact()], ids=lambda r: r.label)
def test_linear_answers_on_the_whole_lower_batch_need_one_reduction(response):
    given = setting(1)
    graph = program(given, response)
    whole = answered(graph, given.train, given.valid)
    assert torch.allclose(lower_replicated(graph, given, 4), whole, rtol=1e-10, atol=1e-14)
    assert (each_alone(graph, given, 4) - whole).norm() > 1e-3 * whole.norm()


@pytest.mark.parametrize(
    ("response", "is_linear"),
    [(cg(steps=3), True), (finite_difference(radius=0.1), False)],
    ids=["cg", "finite difference"],
)
def test_truncated_solves_and_differences_are_not_linear(response, is_linear):
    given = setting(1, is_linear=is_linear)
    graph = program(given, response)
    whole = answered(graph, given.train, given.valid)
    assert (lower_replicated(graph, given, 4) - whole).norm() > 1e-5 * whole.norm()


def test_one_rank_alone_is_right():
    given = setting(2)
    graph = program(given, cg(steps=3))
    whole = answered(graph, given.train, given.valid)
    for average in WAYS.values():
        assert torch.equal(average(graph, given, 1), whole)


def test_the_table(monkeypatch):
    monkeypatch.setattr(communication_bias, "LINES", LINES[:1])
    rows = communication_bias.run(Settings(quick=True)).rows
    assert [(row["way"], row["ranks"]) for row in rows] == [
        (way, ranks) for way in WAYS for ranks in (2, 8)
    ]
    alone, replicated = rows[1], rows[3]
    assert alone["relative error"] > 0.01 > 1e-12 > replicated["relative error"]
    assert alone["cosine"] <= 1
