"""Cases in which other libraries give a wrong hypergradient in silence, one named test for each.

Those of linear solvers alone are in tests/inverse/test_peer_bugs.py: CG with H proportional to the
identity, CG beyond n steps, CG's β from the old residual, indefinite Hessians, Neumann's rate.
Elsewhere:

- a penalty without a graph:
  tests/response/test_stationarity.py::test_a_penalty_without_a_graph_has_no_effect_and_ours_has_one
- SAMA's missing bias correction:
  tests/test_optimizer_derivative.py::test_peer_bug_missing_bias_correction
- weights that stay perturbed after an exception: tests/test_hypergradient_purity.py::
  test_weights_are_bitwise_equal_after_an_exception_inside_a_difference
- a cost that grows with the paths: tests/test_hypergradient_cost.py::
  test_finite_differences_cost_two_evaluations_a_lower_problem_and_one_above
- a training run that goes on after a loss that is not finite: tests/test_engine_failures.py::
  test_the_problem_and_the_round_are_named_and_nothing_has_changed
- NaN in a lower loss, for every solver: tests/contract/test_invariance.py::
  test_a_nan_in_the_lower_loss_is_reported_and_reaches_the_gradient
- weight decay of the optimizer, for every solver and shape: tests/contract/test_objective.py::
  test_weight_decay_of_the_optimizer_is_that_of_the_loss
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

import mlo
from mlo import Engine, Graph, NonFiniteError, Problem, Status, hypergradient
from mlo.testing.quadratic import UPPER, closed_form, declare, random_quadratic
from tests.contract.solvers import DIFFERENTIATING, Setting
from tests.programs import (
    Vector,
    network,
    regression_batches,
    relative_error,
    same_bits,
    snapshot,
    two_levels,
)

every_entry = pytest.mark.parametrize("entry", DIFFERENTIATING, ids=str)


class OwnDropout(nn.Module):
    """Dropout with a generator of its own, so that each evaluation has another mask."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, inputs):
        return inputs * (torch.rand(inputs.shape, generator=self.generator) < 0.5) * 2


@pytest.mark.parametrize(
    ("response", "exact"),
    [
        (mlo.finite_difference(1e-3, rate=0.1), mlo.identity(0.1)),
        (mlo.neumann(3, 0.1, product=mlo.FiniteDifference(radius=1e-3)), mlo.neumann(3, 0.1)),
        (mlo.value_function(1e3, 3, rate=0.1, central=True), mlo.neumann(3, 0.1)),
    ],
    ids=lambda response: response.label,
)
def test_dropout_masks_that_differ_on_both_sides_of_a_difference(response, exact):
    """Elsewhere the answer is 15 times too large, as a difference divides by the small radius."""

    def answer(response, dropout):
        torch.manual_seed(3)
        graph = two_levels(network(dropout), response)
        return hypergradient(graph, "weights", regression_batches()).gradient

    expected = answer(exact, nn.Dropout(0.5))
    assert relative_error(answer(response, nn.Dropout(0.5)), expected) < 1e-4
    # What happens where the numbers cannot be shared: this would be the peer's answer.
    assert relative_error(answer(response, OwnDropout()), expected) > 1


def test_weight_decay_that_only_the_optimizer_knows_belongs_to_the_hessian():
    """Elsewhere the Hessian is that of the loss alone, and the error .675 at a decay of 1."""
    reads = {"x": ["y", UPPER], "y": [UPPER], UPPER: ["x", "y"]}
    program = random_quadratic({"x": 4, "y": 3, UPPER: 2}, reads, condition=10.0)
    decay = 1.0
    whole = replace(
        program,
        lower={
            n: replace(g, curvature=g.curvature + decay * torch.eye(len(g.linear)).double())
            for n, g in program.lower.items()
        },
    )
    solved = declare(whole, dict.fromkeys(program.lower, mlo.cg(12)))
    expected = closed_form(whole, solved)

    def through(weight_decay: float):
        problems = [
            p
            if n == UPPER
            else replace(
                p,
                loss=declare(program).problem(n).loss,
                optimizer=torch.optim.SGD(p.module.parameters(), lr=0.1, weight_decay=weight_decay),
            )
            for n, p in solved.problems.items()
        ]
        return hypergradient(Graph(*problems), UPPER).gradient

    assert relative_error(through(decay), expected) < 1e-9
    assert relative_error(through(0.0), expected) > 0.1


@pytest.mark.parametrize("weight", [1.0, 100.0])
@pytest.mark.parametrize(
    "inside",
    [
        mlo.exact(),
        mlo.cg(12),
        mlo.cg(12, product="finite_difference"),
        mlo.warm_started(mlo.inverse.cg(4), steps=8),
    ],
    ids=lambda response: response.label,
)
def test_a_middle_problem_that_is_itself_nested(inside, weight):
    """a → b*(a) → c*(b), and the upper loss sees c: elsewhere a → b → c → a is never built.

    The gradient of a then does not depend on the weight of c in its loss; the error is .97 where
    that is 100.
    """
    reads = {"c": ["b"], "b": ["c", UPPER], UPPER: ["b", "c", UPPER]}
    program = random_quadratic({"c": 4, "b": 3, UPPER: 2}, reads)
    of_c = torch.tensor([0.0] * 3 + [1.0] * 4 + [0.0] * 2).double()
    curvature = program.upper.curvature + (weight - 1) * torch.diag(of_c)
    linear = program.upper.linear * (1 + (weight - 1) * of_c)
    program = replace(program, upper=replace(program.upper, curvature=curvature, linear=linear))

    def error(response_c):
        graph = declare(program, {"c": response_c, "b": mlo.exact()})
        return relative_error(hypergradient(graph, UPPER).gradient, closed_form(program, graph))

    assert error(inside) < 1e-9
    # Without the route, which can be dropped on purpose.
    assert error(mlo.constant()) > (0.1 if weight == 1.0 else 0.9)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@every_entry
def test_an_upper_loss_that_is_not_finite_does_not_poison_the_lower_weights(entry, value):
    """Elsewhere weights are moved by radius / ‖v‖ · v in place: 0 · inf makes them NaN for good."""
    model = network()
    optimizer = entry.optimizer and entry.optimizer(list(model.parameters()), 0.05)
    graph = two_levels(model, entry.make(Setting(rate=0.05)), optimizer=optimizer)

    def bad(model, batch):
        # The cotangent is this value in every entry: infinite, which is not NaN yet.
        return value * torch.stack([p.sum() for p in model.parameters()]).sum()

    problems = [replace(p, loss=bad) if n == "weights" else p for n, p in graph.problems.items()]
    graph, batches = Graph(*problems), regression_batches()
    before = snapshot(graph)
    found = hypergradient(graph, "weights", batches)
    assert same_bits(snapshot(graph), before)
    assert found.outcomes["model"].status is Status.NON_FINITE
    # And it is said, not turned into zeros.
    assert not all(torch.isfinite(t).all() for t in found.gradient.values())


@pytest.mark.parametrize(
    "response", [mlo.finite_difference(), mlo.adaptive(), mlo.warm_started(), mlo.unrolled()]
)
def test_an_engine_goes_on_after_an_upper_loss_that_was_infinite(response):
    def loss(x, above, batch):
        return (x.value - batch * above.value).pow(4).sum() + x.value.square().sum()

    graph = Graph(
        Problem(
            name="x",
            module=Vector(0.5, 0.1),
            loss=loss,
            batches=[1.0],
            optimizer=lambda p: torch.optim.Adam(p, lr=0.1),
            response=response,
            steps=2,
        ),
        Problem(
            name="above",
            module=Vector(1.0, 0.3),
            loss=lambda x, batch: batch * (x.value - 2).square().sum(),
            batches=[1.0, torch.inf, 1.0, 1.0],
            optimizer=lambda p: torch.optim.Adam(p, lr=0.1),
        ),
    )
    engine = Engine(graph, device="cpu")
    engine.run(1)
    with pytest.raises(NonFiniteError, match="problem 'above', round 2"):
        engine.run(1)
    assert all(torch.isfinite(t).all() for t in snapshot(graph).values())
    engine.run(3)
    assert all(torch.isfinite(t).all() for t in snapshot(graph).values())


UNITS = [1e-4, 1e4]


@pytest.mark.parametrize(
    ("make", "accuracy"),
    [
        (lambda unit: mlo.exact(), 1e-9),
        (lambda unit: mlo.cg(12), 1e-9),
        (lambda unit: mlo.exact(product="finite_difference"), 1e-7),
        (lambda unit: mlo.neumann(400, "auto"), 1e-9),
        (lambda unit: mlo.neumann(400, 0.1 / unit**2), 1e-9),
        (lambda unit: mlo.warm_started(mlo.inverse.identity(0.1 / unit**2), steps=400), 1e-9),
        (lambda unit: mlo.value_function(100.0, 400, rate=0.1 / unit**2, tolerance=1e-12), 1e-6),
        (lambda unit: mlo.nystrom(12, 1e-8 * unit**2), 1e-6),
    ],
    ids=[
        "exact",
        "cg",
        "fd",
        "neumann auto",
        "neumann",
        "warm-started",
        "value function",
        "nystrom",
    ],
)
@pytest.mark.parametrize("order", [UNITS, UNITS[::-1]], ids=["small below", "large below"])
def test_problems_in_units_that_differ_by_many_magnitudes(make, accuracy, order):
    """Rescaling the variables of a lower problem changes nothing above: θ → θ / unit.

    A step, damping or radius that means the same in every problem would be right in one of them
    only: the gradients here differ by a factor 10⁸, the curvatures by 10¹⁶.
    """
    reads = {"x": ["y", UPPER], "y": [UPPER], UPPER: ["x", "y"]}
    program = random_quadratic({"x": 4, "y": 3, UPPER: 2}, reads, condition=5.0)
    units = {**dict(zip(program.lower, order, strict=True)), UPPER: 1.0}
    expected = closed_form(program, declare(program))

    def rescaled(loss, couplings=None):
        unit = units[loss]
        inner = program.lower[loss]
        return replace(
            inner,
            curvature=unit**2 * inner.curvature,
            couplings={a: unit * units[a] * b for a, b in inner.couplings.items()},
            linear=unit * inner.linear,
        )

    scales = torch.cat(
        [torch.full((n,), units[m], dtype=torch.float64) for m, n in (("x", 4), ("y", 3))]
    )
    upper = replace(
        program.upper,
        curvature=scales[:, None] * program.upper.curvature * scales,
        linear=scales * program.upper.linear,
    )
    other = replace(program, lower={n: rescaled(n) for n in program.lower}, upper=upper)
    graph = declare(other, {n: make(units[n]) for n in program.lower})
    assert relative_error(hypergradient(graph, UPPER).gradient, expected) < accuracy
