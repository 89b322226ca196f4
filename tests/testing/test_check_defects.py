"""Each planted defect fails the check, with the right words."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mlo
from mlo import Graph, Problem, inverse
from mlo.response.protocol import Response
from mlo.testing import Cause, Severity, check_hypergradient
from mlo.testing.quadratic import UPPER, declare, random_quadratic
from mlo.testing.strategies import SHAPES, quadratics
from tests.programs import Vector, network, regression_batches, two_levels


def only(report, cause):
    """Return the one finding that says why the check failed."""
    assert not report.ok
    found = [f for f in report.findings if f.cause is cause]
    assert len(found) == 1, str(report)
    return found[0]


def causes(report):
    return {finding.cause for finding in report.findings}


def decayed(response, **options):
    graph = two_levels(
        network(),
        response,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
        **options,
    )
    return graph, regression_batches()


@settings(max_examples=5)
@given(quadratics(SHAPES["bilevel"], condition=10.0), st.floats(2.05, 20.0))
def test_a_neumann_rate_above_its_limit(program, factor):
    largest = float(torch.linalg.eigvalsh(program.lower["x"].curvature)[-1])
    graph = declare(program, {"x": mlo.neumann(terms=2, rate=factor / largest)})
    finding = only(check_hypergradient(graph, UPPER, throw=False), Cause.RATE)
    assert f"rate {factor / largest:g} is above 2/λ_max = {2 / largest:.3g}" in finding.message
    assert f"λ_max = {largest:.4g}" in finding.message


def test_a_neumann_rate_below_its_limit_is_not_accused():
    program = random_quadratic({"x": 4, UPPER: 2}, SHAPES["bilevel"], condition=10.0)
    graph = declare(program, {"x": mlo.neumann(terms=400, rate=0.19)})
    assert check_hypergradient(graph, UPPER, strict=True).findings == ()


def test_too_few_steps_of_the_lower_problem():
    graph, batches = decayed(mlo.cg(steps=200), steps=1)
    report = check_hypergradient(graph, "weights", batches, strict=True, throw=False)
    finding = only(report, Cause.FAR_FROM_SOLUTION)
    assert f"{report.solved['model'].gradient_norm_now:.2g}" in finding.message
    assert "steps=1" in finding.message
    assert report.now[1] > 0.01
    assert check_hypergradient(graph, "weights", batches).ok


def test_a_lower_problem_without_a_minimum():
    def separable(model, scale, batch):
        return nn.functional.softplus(-scale.value.exp() * model(batch)).mean()

    torch.manual_seed(0)
    graph = Graph(
        Problem(
            name="model", module=nn.Linear(1, 1, bias=False), loss=separable, response=mlo.exact()
        ),
        Problem(name="scale", module=Vector(0.3), loss=lambda model: model.weight.square().sum()),
    )
    batches = {"model": torch.tensor([[1.0], [2.0]])}
    report = check_hypergradient(graph, "scale", batches, strict=True, throw=False)
    assert "weight decay" in only(report, Cause.UNSOLVED).message
    # Where it stands its response is right all the same.
    assert report.rows[0].comparison.relative_error < 1e-5


def saddle(x, a):
    return x.value[0] ** 2 - x.value[1] ** 2 + (x.value * a.value).sum()


def test_an_indefinite_hessian():
    graph = Graph(
        Problem(name="x", module=Vector(-0.5, 1.0), loss=saddle, response=mlo.exact()),
        Problem(name="a", module=Vector(1.0, 2.0), loss=lambda x: x.value.square().sum()),
    )
    finding = only(check_hypergradient(graph, "a", throw=False), Cause.NEGATIVE_CURVATURE)
    assert "smallest Ritz value of its Hessian is -2 (the largest 2)" in finding.message


def test_a_relu_kink():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(0.0),
            loss=lambda x, a: (x.value - a.value.relu()).square().sum(),
            response=mlo.exact(),
        ),
        Problem(name="a", module=Vector(0.0), loss=lambda x, a: (x.value + 1 + a.value).prod()),
    )
    finding = only(check_hypergradient(graph, "a", throw=False), Cause.KINK)
    assert "ReLU" in finding.message
    smooth_side = Graph(
        *(replace(p, module=Vector(0.5)) if n == "a" else p for n, p in graph.problems.items())
    )
    assert check_hypergradient(smooth_side, "a").ok


def test_kinks_are_named_where_the_answer_is_not_zero():
    def loss(x, a):
        return (x.value - a.value - a.value.relu()).square().sum()

    graph = Graph(
        Problem(name="x", module=Vector(0.0), loss=loss, response=mlo.exact()),
        Problem(name="a", module=Vector(0.0), loss=lambda x: (x.value + 1).square().sum()),
    )
    finding = only(check_hypergradient(graph, "a", throw=False), Cause.KINK)
    assert "slopes on both sides" in finding.message


def test_randomness_that_is_not_shared():
    generator = torch.Generator().manual_seed(0)

    def loss(x, a):
        noise = torch.rand((), generator=generator, dtype=torch.float64)
        return (x.value - a.value).square().sum() * (1 + noise)

    graph = Graph(
        Problem(name="x", module=Vector(1.0), loss=loss, response=mlo.exact()),
        Problem(name="a", module=Vector(2.0), loss=lambda x: x.value.square().sum()),
    )
    finding = only(check_hypergradient(graph, "a", throw=False), Cause.RANDOMNESS)
    assert finding.problem == "x"
    assert "generator of its own" in finding.message


def test_randomness_of_the_global_generator_is_shared():
    def loss(x, a):
        return (x.value - a.value * torch.rand(())).square().sum()

    graph = Graph(
        Problem(name="x", module=Vector(1.0), loss=loss, response=mlo.exact()),
        Problem(name="a", module=Vector(2.0), loss=lambda x: x.value.square().sum()),
    )
    assert check_hypergradient(graph, "a").ok


def without_decay(hvp, vector, context):
    """Solve with the Hessian of the loss alone."""

    def bare(direction):
        image = hvp(direction)
        return {key: t - context.decay[key] * direction[key] for key, t in image.items()}

    return inverse.exact()(bare, vector, context)


def test_weight_decay_that_a_response_does_not_see():
    graph, batches = decayed(mlo.implicit(without_decay))
    finding = only(check_hypergradient(graph, "weights", batches, throw=False), Cause.DECAY)
    assert "without the weight decay" in finding.message


def test_decoupled_decay_that_cannot_be_counted():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lambda x, a: (x.value - a.value).square().sum(),
            response=mlo.exact(),
            optimizer=lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2),
        ),
        Problem(name="a", module=Vector(1.0), loss=lambda x: x.value.square().sum()),
    )
    report = check_hypergradient(graph, "a", strict=True, throw=False)
    assert "decoupled weight decay 0.2 of AdamW" in only(report, Cause.DECAY).message


def test_a_detached_upper_variable():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lambda x, a: (x.value - a.value.detach().sin()).square().sum(),
            response=mlo.exact(),
        ),
        Problem(name="a", module=Vector(2.0), loss=lambda x, a: (x.value * a.value).sum()),
    )
    finding = only(check_hypergradient(graph, "a", throw=False), Cause.ZERO_PATH)
    assert finding.severity is Severity.ERROR
    assert "'a' is detached in the loss of 'x'" in finding.message


def test_a_detached_solution():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lambda x, a: (x.value - a.value).square().sum(),
            response=mlo.exact(),
        ),
        Problem(
            name="a", module=Vector(2.0), loss=lambda x, a: (x.value.detach().exp() * a.value).sum()
        ),
    )
    report = check_hypergradient(graph, "a", throw=False)
    assert "its loss depends on 'x'" in only(report, Cause.DETACHED).message
    assert "no gradient arrives" in only(report, Cause.ZERO_PATH).message


def test_a_loss_that_detaches_a_part_of_itself():
    # The weight of the loss depends on the model, as in Meta-Weight-Net.
    def loss(x, a):
        return (x.value - a.value).square().sum() * (1 + x.value.detach().square().sum())

    graph = Graph(
        Problem(name="x", module=Vector(1.0), loss=loss, response=mlo.exact()),
        Problem(name="a", module=Vector(2.0), loss=lambda x: x.value.square().sum()),
    )
    report = check_hypergradient(graph, "a", strict=True, throw=False)
    assert "with respect to itself" in only(report, Cause.DETACHED).message


def altered(change):
    """Return the exact response with its answer changed."""
    exact = mlo.exact()

    def answer(inner, solution, upstream, vector, context):
        found, outcome = exact(inner, solution, upstream, vector, context)
        return change(found), outcome

    return Response(label="mine()", answer=answer, evaluations=None)


def scaled_by(factor):
    return altered(
        lambda found: {a: {k: factor * t for k, t in p.items()} for a, p in found.items()}
    )


@settings(max_examples=5)
@given(quadratics(SHAPES["bilevel"]))
def test_a_wrong_sign(program):
    graph = declare(program, {"x": scaled_by(-1.0)})
    finding = only(check_hypergradient(graph, UPPER, throw=False), Cause.SIGN)
    assert "opposite sign:" in finding.message


@settings(max_examples=5)
@given(quadratics(SHAPES["bilevel"]), st.sampled_from([0.1, 0.5, 1.02, 64.0]))
def test_a_missing_factor(program, factor):
    graph = declare(program, {"x": scaled_by(factor)})
    finding = only(check_hypergradient(graph, UPPER, throw=False), Cause.FACTOR)
    assert f"{factor:.4g} times the right size" in finding.message


def test_a_dropped_tensor():
    program = random_quadratic({"x": 4, UPPER: 5}, SHAPES["bilevel"])

    def drop(found):
        return {a: {k: t for k, t in p.items() if k != "tensors.0"} for a, p in found.items()}

    graph = declare(program, {"x": altered(drop)})
    finding = only(check_hypergradient(graph, UPPER, throw=False), Cause.MISMATCH)
    assert "zero for 'tensors.0' and right for the rest" in finding.message


def test_a_dropped_edge():
    reads = {"t": [UPPER], "s": ["t", UPPER], UPPER: ["s"]}
    program = random_quadratic({"t": 3, "s": 4, UPPER: 2}, reads)
    first_only = altered(lambda found: {"t": found["t"]})
    graph = declare(program, {"s": first_only, "t": mlo.exact()})
    finding = only(check_hypergradient(graph, UPPER, throw=False), Cause.ZERO_PATH)
    assert finding.problem == "s"
    assert "answers 'upper' with exactly zero" in finding.message


class WrongMixed:
    """Products whose mixed derivative is taken at twice the solution."""

    label = "wrong"
    evaluations = 1
    overhead = 1

    def __call__(self, inner, solution, upstream):
        right = mlo.Autograd()(inner, solution, upstream)
        doubled = {key: 2 * t for key, t in solution.items()}
        elsewhere = mlo.Autograd()(inner, doubled, upstream)
        return replace(right, mixed=elsewhere.mixed)


@pytest.mark.parametrize("solver", [inverse.exact(), inverse.identity(rate=0.1)])
def test_a_wrong_mixed_product(solver):
    graph, batches = decayed(mlo.implicit(solver, product=WrongMixed()))
    report = check_hypergradient(graph, "weights", batches, throw=False)
    assert not report.ok
    assert causes(report) & {Cause.MISMATCH, Cause.FACTOR}


def test_damping_is_reported_as_declared():
    graph, batches = decayed(mlo.cg(steps=300, damping=0.5))
    report = check_hypergradient(graph, "weights", batches, throw=False)
    assert report.ok
    assert "applied as declared" in next(
        f.message for f in report.findings if f.cause is Cause.DAMPING
    )


@pytest.mark.parametrize("response", [mlo.identity(), mlo.finite_difference()])
def test_one_step_responses_are_reported_and_fail_only_a_strict_check(response):
    graph, batches = decayed(response)
    report = check_hypergradient(graph, "weights", batches)
    assert report.ok
    finding = next(f for f in report.findings if f.cause is Cause.ONE_STEP)
    assert finding.severity is Severity.WARNING
    assert f"{report.rows[0].comparison.cosine:.4f}" in finding.message
    assert not check_hypergradient(graph, "weights", batches, strict=True, throw=False).ok
