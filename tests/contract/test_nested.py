"""Nested programs off quadratics: which solvers may be inside, and how their errors fall."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

import mlo
from mlo import FiniteDifference, Graph, GraphError, Problem, hypergradient
from mlo.testing.quadratic import UPPER, Quadratic, closed_form, declare
from mlo.testing.strategies import NESTED
from tests.contract.reference import ratios
from tests.contract.solvers import DIFFERENTIATING, ENTRIES, Setting, declared, program_of, within
from tests.programs import Vector, relative_error
from tests.test_nested import Smooth

SEED = 1
RATE = 0.1


@functools.cache
def solved() -> Graph:
    """Return the program at its solution, which takes long to find; nobody may change it."""
    return Smooth(SEED).graph(mlo.exact(), mlo.exact())


def gradient(response_b: mlo.Response, response_c: mlo.Response, optimizer=None):
    responses = {"b": response_b, "c": response_c}
    problems = [
        replace(p, response=responses[n], optimizer=optimizer) if n in responses else p
        for n, p in solved().problems.items()
    ]
    return hypergradient(Graph(*problems), "a").gradient


@pytest.fixture(scope="module")
def exact():
    return gradient(mlo.exact(), mlo.exact())


@pytest.mark.parametrize("entry", [e for e in DIFFERENTIATING if not e.nests], ids=str)
@pytest.mark.parametrize("shape", NESTED)
def test_what_cannot_be_differentiated_again_is_refused_with_the_way_out(entry, shape):
    plain = declare(program_of(shape, Quadratic))
    response = entry.make(Setting(rate=RATE))
    for name in within(plain):
        problems = [
            replace(p, response=response if n == name else p.response)
            for n, p in plain.problems.items()
        ]
        with pytest.raises(GraphError) as caught:
            Graph(*problems)
        message = str(caught.value)
        assert message.startswith(f"problem {name!r}: its solution is part of the objective of '")
        assert f"{response.label} cannot be differentiated again" in message
        assert "give" in message
        assert "mlo.cg() or mlo.unrolled(), or mlo.constant()" in message
        assert "\n" not in message


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.nests], ids=str)
@pytest.mark.parametrize("shape", NESTED)
def test_what_can_be_is_accepted_and_costs_no_level(entry, shape):
    plain = declare(program_of(shape, Quadratic))
    response = entry.make(Setting(rate=RATE))
    problems = [
        replace(p, response=None if n == UPPER else response) for n, p in plain.problems.items()
    ]
    assert Graph(*problems).levels == plain.levels


ROUNDING = [
    ("cg", mlo.cg(12)),
    ("neumann", mlo.neumann(150, RATE)),
    ("neumann auto", mlo.neumann(80, "auto")),
    ("warm-started", mlo.warm_started(mlo.inverse.cg(3), steps=6)),
    ("warm-started, identity", mlo.warm_started(mlo.inverse.identity(RATE), steps=150)),
]


@pytest.mark.parametrize(("name", "response"), ROUNDING, ids=[name for name, _ in ROUNDING])
def test_inside_and_outside_every_solver_reaches_the_exact_answer(name, response, exact):
    assert relative_error(gradient(mlo.exact(), response), exact) < 1e-6
    assert relative_error(gradient(response, mlo.exact()), exact) < 1e-6


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("name", ["neumann", "warm-started", "unrolled"])
def test_the_error_of_a_series_is_squared_by_twice_its_terms(name, inside, exact):
    make = {
        "neumann": lambda k: mlo.neumann(k, RATE),
        "warm-started": lambda k: mlo.warm_started(mlo.inverse.identity(RATE), steps=k),
        "unrolled": mlo.unrolled,
    }[name]
    optimizer = (lambda p: torch.optim.SGD(p, lr=RATE)) if name == "unrolled" else None

    def error(terms: int) -> float:
        pair = (mlo.exact(), make(terms)) if inside else (make(terms), mlo.exact())
        return relative_error(gradient(*pair, optimizer=optimizer), exact)

    first, second, third = error(24), error(36), error(48)
    assert third / second == pytest.approx(second / first, rel=0.2)
    assert third < second / 3 < first / 9


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize(
    "entry", [e for e in DIFFERENTIATING if e.products and e.law and e.nests], ids=str
)
def test_the_error_of_a_difference_quarters_when_the_radius_halves(entry, inside):
    def answer(product):
        response = entry.make(Setting(rate=RATE, product=product))
        return gradient(*((mlo.exact(), response) if inside else (response, mlo.exact())))

    expected = answer("autograd")
    errors = [
        relative_error(answer(FiniteDifference(radius=radius)), expected)
        for radius in (0.08, 0.04, 0.02)
    ]
    if inside and entry.name == "identity":
        # It needs no Hessian product, and the mixed derivative inside is always taken exactly.
        assert max(errors) < 1e-12
    else:
        assert ratios(errors) == pytest.approx([4.0, 4.0], rel=0.1)


@pytest.mark.parametrize(
    ("name", "order"),
    [("value function", 1), ("value function, central", 2), ("stationarity penalty", 1)],
)
def test_a_penalty_outside_has_its_order(name, order, exact):
    make = {
        "value function": lambda s: mlo.value_function(s, 400, rate=RATE, tolerance=1e-13),
        "value function, central": lambda s: mlo.value_function(
            s, 400, rate=RATE, tolerance=1e-13, central=True
        ),
        "stationarity penalty": lambda s: mlo.stationarity_penalty(
            s, 400, rate=RATE, tolerance=1e-12
        ),
    }[name]
    errors = [relative_error(gradient(make(s), mlo.exact()), exact) for s in (25.0, 50.0)]
    assert ratios(errors) == pytest.approx([2.0**order], rel=0.1)


def test_the_bias_of_nystrom_is_linear_in_its_damping_inside_and_outside(exact):
    for inside in (True, False):
        errors = []
        for damping in (2e-4, 1e-4):
            response = mlo.nystrom(12, damping)
            pair = (mlo.exact(), response) if inside else (response, mlo.exact())
            errors.append(relative_error(gradient(*pair), exact))
        assert ratios(errors) == pytest.approx([2.0], rel=0.02)


class Dropout(nn.Module):
    """Keeps the masks that it has used."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[torch.Tensor] = []

    def forward(self, inputs):
        self.masks.append(torch.rand_like(inputs) < 0.5)
        return inputs * self.masks[-1] * 2


def with_dropout(response_b: mlo.Response, response_c: mlo.Response):
    """Return the gradient of a, and the masks of b and c, which both use dropout."""
    outer, inner = Dropout(), Dropout()

    def inner_loss(c, b, a):
        kept = inner(c.value - b.value * a.value)
        return (kept.square() + kept.pow(4) / 10).sum() + c.value.square().sum()

    def outer_loss(b, c, a):
        kept = outer(b.value - a.value + 0.3 * c.value)
        return (kept.square() + kept.pow(4) / 10).sum() + b.value.square().sum()

    graph = Graph(
        Problem(
            name="c",
            module=Vector(*[-0.3, 0.2, 0.7, 0.4] * 3),
            loss=inner_loss,
            response=response_c,
        ),
        Problem(
            name="b",
            module=Vector(*[0.1, 0.4, -0.2, 0.5] * 3),
            loss=outer_loss,
            response=response_b,
        ),
        Problem(
            name="a",
            module=Vector(*[0.3, 0.2, 0.6, 0.9] * 3),
            loss=lambda a, b, c: (b.value.exp() + c.value.sin() + a.value).sum(),
        ),
    )
    torch.manual_seed(0)
    return hypergradient(graph, "a").gradient, outer.masks, inner.masks


def test_dropout_inside_and_outside_uses_one_mask_each_on_all_sides_of_a_difference():
    small = FiniteDifference(radius=1e-3)
    _, outer, inner = with_dropout(mlo.exact(product=small), mlo.exact(product=small))
    assert len(outer) > 2
    assert all(torch.equal(mask, outer[0]) for mask in outer)
    # The solution that b reads and the one that a reads are one function.
    assert all(torch.equal(mask, inner[0]) for mask in inner)


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_differences_agree_with_autograd_under_dropout_inside_and_outside(inside):
    expected, _, _ = with_dropout(mlo.exact(), mlo.exact())
    small = mlo.exact(product=FiniteDifference(radius=1e-3))
    found, _, _ = with_dropout(*((mlo.exact(), small) if inside else (small, mlo.exact())))
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("shape", ["nested", "nested, all read by all"])
@pytest.mark.parametrize(
    "entry",
    [e for e in DIFFERENTIATING if e.name not in ("identity", "finite difference")],
    ids=str,
)
def test_a_nan_in_the_innermost_loss_reaches_the_gradient(entry, shape):
    """One step of b alone does not ask for its Hessian, so not for c's loss."""
    graph = declared(program_of(shape, Quadratic), entry, Setting(rate=0.05))

    def spoilt(loss):
        return lambda **modules: loss(**modules) * torch.nan

    problems = [
        replace(p, loss=spoilt(p.loss), reads=graph.reads(n)) if n == "c" else p
        for n, p in graph.problems.items()
    ]
    found = hypergradient(Graph(*problems), UPPER)
    assert found.outcomes["b"].failed
    assert not all(torch.isfinite(t).all() for t in found.gradient.values())


def test_a_solve_inside_that_stopped_early_is_told():
    """c is not read from above, so that its only solves are those within the objective of b."""
    program = program_of("nested", Quadratic)
    graph = declare(program, {"b": mlo.exact(), "c": mlo.cg(1)})
    found = hypergradient(graph, UPPER)
    assert relative_error(found.gradient, closed_form(program, graph)) > 0.1
    assert not all(outcome.converged for outcome in found.outcomes.values())
