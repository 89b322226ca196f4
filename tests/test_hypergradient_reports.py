"""What cannot be differentiated is reported, never returned as if it were fine."""

import pytest
import torch
from torch import nn

import mlo
from mlo import BatchError, Graph, GraphError, Problem, ResponseError, Status, hypergradient
from tests.programs import Vector, network, regression_batches, two_levels

RESPONSES = {
    "finite_difference": mlo.finite_difference(rate=0.1),
    "identity": mlo.identity(rate=0.1),
    "neumann": mlo.neumann(terms=3, rate=0.1),
    "neumann, differences": mlo.neumann(terms=3, rate=0.1, product="finite_difference"),
    "cg": mlo.cg(steps=3),
    "cg, differences": mlo.cg(steps=3, product="finite_difference"),
    "exact": mlo.exact(),
    "exact, differences": mlo.exact(product="finite_difference"),
}
every_response = pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)


def program(lower_loss, response, upper_loss=lambda x: (x.value - 3).square().sum(), **values):
    modules = {"x": Vector(0.3, 0.4), "above": Vector(1.0, 2.0), **values}
    return Graph(
        Problem(name="x", module=modules["x"], loss=lower_loss, response=response),
        Problem(name="above", module=modules["above"], loss=upper_loss),
    )


def one(found):
    (outcome,) = found.outcomes.values()
    return outcome


@every_response
def test_a_problem_whose_parameters_enter_linearly_has_no_isolated_solution(response):
    found = hypergradient(
        program(lambda x, above: (x.value * above.value).sum(), response), "above"
    )
    assert torch.isfinite(found.gradient["value"]).all()
    label = response.label
    if label.startswith(("cg", "exact")):
        assert one(found).status is Status.ZERO_CURVATURE
        assert "linear in its own parameters" in one(found).message
        assert one(found).failed
    elif label.startswith("neumann"):
        assert one(found).status is Status.ZERO_CURVATURE
        assert one(found).residual == 1.0
    else:
        # One step is defined without a Hessian: -rate · dF/dx · d²g/dx d above.
        assert one(found).status is Status.ONE_STEP
        expected = -0.1 * 2 * (torch.tensor([0.3, 0.4]).double() - 3)
        assert torch.allclose(found.gradient["value"], expected, rtol=1e-9)


@every_response
def test_a_mixed_derivative_that_is_zero_by_structure(response):
    # The upper variables are read, but enter as a separate term.
    def lower_loss(x, above):
        return x.value.square().sum() + above.value.square().sum()

    found = hypergradient(program(lower_loss, response), "above")
    assert one(found).status is Status.ZERO_RESPONSE
    assert torch.equal(found.gradient["value"], torch.zeros(2).double())


@every_response
def test_a_mixed_derivative_that_is_zero_at_this_point_only(response):
    def lower_loss(x, above):
        return (x.value.square() * (above.value - 1).square() + x.value.square()).sum()

    found = hypergradient(program(lower_loss, response, above=Vector(1.0, 1.0)), "above")
    assert one(found).status is Status.ZERO_RESPONSE
    assert "exactly zero" in one(found).message


@every_response
def test_an_upper_loss_whose_gradient_is_zero_at_this_point(response):
    def lower_loss(x, above):
        return (x.value - above.value).square().sum()

    graph = program(lower_loss, response, x=Vector(3.0, 3.0))
    assert one(hypergradient(graph, "above")).status is Status.ZERO_RESPONSE


@every_response
@pytest.mark.parametrize(
    "upper_loss", [lambda x: x.value.detach().sum(), lambda x: torch.tensor(1.0)]
)
def test_an_upper_loss_that_is_cut_off_from_what_it_reads(response, upper_loss):
    graph = program(lambda x, above: (x.value - above.value).square().sum(), response, upper_loss)
    found = hypergradient(graph, "above")
    assert one(found).status is Status.ZERO_RESPONSE
    assert torch.equal(found.gradient["value"], torch.zeros(2).double())


@every_response
def test_a_lower_loss_that_is_cut_off_from_the_upper_variables(response):
    def lower_loss(x, above):
        return (x.value - above.value.detach()).square().sum()

    found = hypergradient(program(lower_loss, response), "above")
    assert one(found).status is Status.ZERO_RESPONSE
    with pytest.raises(ResponseError, match=r"hypergradient of 'above': problem 'x': .*comes back"):
        hypergradient(program(lower_loss, response), "above", throw=True)


@every_response
def test_a_lower_loss_that_is_not_a_number(response):
    def lower_loss(x, above):
        return (x.value * above.value).square().sum() * torch.nan

    found = hypergradient(program(lower_loss, response), "above")
    assert one(found).status is Status.NON_FINITE
    assert one(found).message == f"{response.label}: the answer is infinite or not a number"
    with pytest.raises(ResponseError, match="infinite or not a number"):
        hypergradient(program(lower_loss, response), "above", throw=True)


def test_negative_curvature_is_named_even_where_it_leaves_a_zero_answer():
    def saddle(x, above):
        return -(x.value - above.value).square().sum()

    found = hypergradient(program(saddle, mlo.cg(steps=3)), "above")
    assert one(found).status is Status.NEGATIVE_CURVATURE
    with pytest.raises(ResponseError, match="negative curvature, so the problem is not at a mini"):
        hypergradient(program(saddle, mlo.cg(steps=3)), "above", throw=True)


def test_a_rate_that_is_too_large_is_named():
    def lower_loss(x, above):
        return 50 * (x.value - above.value).square().sum()

    found = hypergradient(program(lower_loss, mlo.neumann(terms=5, rate=0.1)), "above")
    assert one(found).status is Status.DIVERGED


def test_throw_lets_a_truncated_solve_pass():
    graph = two_levels(network(), mlo.cg(steps=1, damping=10.0))
    found = hypergradient(graph, "weights", regression_batches(), throw=True)
    assert found.outcomes["model"].status is Status.TRUNCATED


def test_one_outcome_for_each_differentiated_problem_in_the_order_of_the_sweep():
    graph = Graph(
        Problem(
            name="t",
            module=Vector(1.0),
            loss=lambda t, c: (t.value - c.value).square().sum(),
            response=mlo.exact(),
        ),
        Problem(
            name="s",
            module=Vector(2.0),
            loss=lambda s, t: (s.value - t.value).square().sum(),
            response=mlo.identity(rate=0.1),
        ),
        Problem(name="c", module=Vector(3.0), loss=lambda s: s.value.square().sum()),
    )
    found = hypergradient(graph, "c")
    assert {n: o.solver for n, o in found.outcomes.items()} == {
        "s": "identity(rate=0.1)",
        "t": "exact()",
    }
    assert list(found.outcomes) == ["s", "t"]
    assert found.outcomes["t"].converged


class Mixed(nn.Module):
    """A used, a frozen, and an unused parameter."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Parameter(torch.tensor([2.0]).double(), requires_grad=False)
        self.used = nn.Parameter(torch.tensor([0.5]).double())
        self.unused = nn.Parameter(torch.tensor([1.0, 1.0]).double())


@every_response
def test_frozen_and_unused_parameters_are_allowed_on_both_levels(response):
    if response.label == "exact()":
        response = mlo.exact(damping=1e-12)
    graph = Graph(
        Problem(
            name="x",
            module=Mixed(),
            loss=lambda x, above: (x.used - x.frozen * above.used * above.frozen).square().sum(),
            response=response,
        ),
        Problem(name="above", module=Mixed(), loss=lambda x: (x.used - 5).square().sum()),
    )
    found = hypergradient(graph, "above")
    assert list(found.gradient) == [name for name, _ in Mixed().named_parameters()]
    assert torch.equal(found.gradient["frozen"], torch.zeros_like(found.gradient["frozen"]))
    assert torch.equal(found.gradient["unused"], torch.zeros(2).double())
    # d x*/d above = frozen · frozen = 4 by any solver of the system, 2 · rate · 4 by one step.
    cotangent = 2 * (0.5 - 5)
    factor = {"id": 0.2, "fi": 0.2, "ne": 1 - 0.8**3}.get(response.label[:2], 1.0)
    assert found.gradient["used"].item() == pytest.approx(factor * 4 * cotangent, rel=1e-6)


def test_an_unused_lower_parameter_makes_the_hessian_singular_and_does_no_harm():
    graph = Graph(
        Problem(
            name="x",
            module=Mixed(),
            loss=lambda x, above: (x.used - above.used).square().sum(),
            response=mlo.exact(),
        ),
        Problem(name="above", module=Mixed(), loss=lambda x: (x.used - 5).square().sum()),
    )
    found = hypergradient(graph, "above")
    assert found.gradient["used"].item() == pytest.approx(-9.0)
    assert found.outcomes["x"].converged


def test_half_precision_is_refused_by_differences_and_named():
    graph = program(
        lambda x, above: (x.value - above.value).square().sum(),
        mlo.finite_difference(rate=0.1),
        x=Vector(1.0, 2.0, dtype=torch.bfloat16),
        above=Vector(1.0, 2.0, dtype=torch.bfloat16),
    )
    with pytest.raises(ResponseError, match=r"parameter 'value' is torch.bfloat16, whose rounding"):
        hypergradient(graph, "above")


def test_a_batch_that_is_missing_is_named():
    graph = two_levels(network(), mlo.identity(rate=0.1))
    batches = regression_batches()
    message = (
        r"batches lacks a batch for problem 'model', whose loss takes one; got batches for \('"
    )
    with pytest.raises(BatchError, match=message):
        hypergradient(graph, "weights", {"weights": batches["weights"]})
    with pytest.raises(BatchError, match="lacks a batch for problem 'weights'"):
        hypergradient(graph, "weights")


def test_a_batch_for_an_unknown_problem_is_refused():
    graph = two_levels(network(), mlo.identity(rate=0.1))
    with pytest.raises(BatchError, match=r"a batch for 'wieghts', .* \(did you mean 'weights'\?\)"):
        hypergradient(graph, "weights", {**regression_batches(), "wieghts": 1})


def test_only_batches_that_the_sweep_uses_are_needed():
    graph = two_levels(network(), mlo.identity(rate=0.1))
    batches = regression_batches()
    found = hypergradient(graph, "model", {"model": batches["model"]})
    assert found.outcomes == {}
    assert not torch.equal(found.gradient["0.weight"], torch.zeros(6, 3).double())


def test_an_unknown_problem_is_refused():
    with pytest.raises(GraphError, match="no problem is called 'wieghts'"):
        hypergradient(two_levels(network(), mlo.identity(rate=0.1)), "wieghts")


@pytest.mark.parametrize("value", [1.0, None])
def test_a_loss_that_is_no_tensor_is_refused(value):
    graph = program(lambda x, above: value, mlo.identity(rate=0.1))
    with pytest.raises(mlo.ProblemError, match="problem 'x': its loss must return a 0-dim tensor"):
        hypergradient(graph, "above")
