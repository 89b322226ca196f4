"""Errors of hypergradients: the references are right, and each family behaves as it must."""

import pytest
import torch

from mlo.bench import accuracy, plots
from mlo.bench.accuracy import SOLVED, TRAINED, dense, learner, lines, program, retrained, solved
from mlo.bench.case import Settings
from mlo.hypergradient import hypergradient
from mlo.response.implicit import exact


@pytest.fixture(scope="module")
def result():
    return accuracy.run(Settings(quick=True))


def of(result, stage, family):
    return [
        (row["evaluations"], row["relative error"])
        for row in result.rows
        if (row["stage"], row["family"]) == (stage, family)
    ]


def test_every_family_is_measured_at_both_stages(result):
    families = {line.family for line in lines(most=2, rank=2)}
    assert {row["family"] for row in result.rows} == families
    for stage in (SOLVED, TRAINED):
        assert {row["family"] for row in result.rows if row["stage"] == stage} == families


def test_evaluations_grow_along_a_line(result):
    for stage in (SOLVED, TRAINED):
        for family in {row["family"] for row in result.rows}:
            spent = [evaluations for evaluations, _ in of(result, stage, family)]
            assert spent == sorted(set(spent))


def test_where_it_is_solved_the_dense_inverse_is_exact_and_the_series_falls(result):
    ((_, error),) = of(result, SOLVED, "exact")
    assert error < 1e-10
    errors = [error for _, error in of(result, SOLVED, "neumann")]
    assert errors == sorted(errors, reverse=True)


def test_the_series_the_unrolled_updates_and_the_warm_start_are_one_at_the_solution(result):
    """All are the Neumann series: of K terms, of K updates, after K calls."""
    series = [error for _, error in of(result, SOLVED, "neumann")]
    for family in ("unrolled", "warm_started"):
        errors = [error for _, error in of(result, SOLVED, family)]
        assert errors[1:] == pytest.approx(series, rel=1e-6)


def test_all_updates_unrolled_are_the_derivative_of_training(result):
    *_, (evaluations, error) = of(result, TRAINED, "unrolled")
    assert evaluations == 2 * accuracy.UPDATES
    assert error < 1e-6
    others = [
        row["relative error"]
        for row in result.rows
        if row["stage"] == TRAINED and row["family"] != "unrolled"
    ]
    assert min(others) > 0.05


def test_the_minimum_is_one():
    parts, left = solved(learner(8, seed=0))
    assert left < 1e-12
    assert torch.linalg.eigvalsh(accuracy.curvature(parts, parts.parameters))[0] > 0


def test_the_dense_reference_is_the_slope_of_the_upper_loss_solved_again():
    parts, _ = solved(learner(4, seed=0))
    slope = torch.func.grad(parts.lower)
    curvature = torch.func.jacrev(slope)
    direction = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    def upper(step):
        point, logits = parts.parameters, step * direction
        for _ in range(4):
            point = point - torch.linalg.solve(curvature(point, logits), slope(point, logits))
        assert slope(point, logits).norm() < 1e-12
        return float(parts.upper(point))

    expected = float(dense(parts) @ direction)
    coarse, fine = ((upper(h) - upper(-h)) / (2 * h) - expected for h in (2e-2, 1e-2))
    assert abs(fine) < 1e-2 * abs(expected)
    # Of second order: half the step, a quarter of the error.
    assert coarse / fine == pytest.approx(4, rel=0.05)


def test_the_retrained_reference_is_the_derivative_through_the_updates():
    parts = learner(4, seed=0)
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    point = parts.parameters.requires_grad_()
    for _ in range(5):
        value = parts.lower(point, logits)
        point = point - accuracy.RATE * torch.autograd.grad(value, point, create_graph=True)[0]
    (expected,) = torch.autograd.grad(parts.upper(point), logits)
    coarse, fine = (float((retrained(parts, 5, step=h) - expected).norm()) for h in (0.2, 0.1))
    assert fine < 1e-3 * float(expected.norm())
    # Of fourth order: half the step, a sixteenth of the error.
    assert coarse / fine == pytest.approx(16, rel=0.1)


def test_a_program_leaves_weight_decay_to_its_optimizer():
    parts, _ = solved(learner(4, seed=0))
    batches = {accuracy.MODEL: parts.train, accuracy.WEIGHTS: parts.valid}
    found = hypergradient(program(parts, exact()), accuracy.WEIGHTS, batches).gradient["value"]
    assert float((found - dense(parts)).norm() / found.norm()) < 1e-10


def test_the_picture_names_every_line_and_cuts_what_leaves(result):
    document = {"rows": result.rows}
    figure = plots.accuracy(document)
    assert len(figure.axes) == 2
    for axis in figure.axes:
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
        low, high = axis.get_ylim()
        ties = [line.get_ydata() for line in axis.lines if line.get_alpha() == 0.7]
        assert len(ties) >= 9
        assert all(low <= y <= high for tie in ties for y in tie)
        names = {text.get_text() for text in axis.texts}
        assert {"cg", "neumann", "unrolled", "identity"} <= names


def test_a_line_is_cut_where_it_crosses_the_edge():
    x, y = plots._last_seen([(1.0, 1.0), (100.0, 1e-4)], (1e-2, 10.0))
    assert (x, y) == pytest.approx((10.0, 1e-2))
