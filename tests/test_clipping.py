"""Bounds on the direct and the indirect part of a gradient."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mlo
from mlo import Clipping, Engine, Graph, NonFiniteError, Problem, ProblemError
from mlo.tree import norm
from tests.programs import (
    Vector,
    flat,
    network,
    regression_batches,
    same_bits,
    snapshot,
    two_levels,
)


def sgd(lr=1.0, **options):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **options)


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


numbers = st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-6)
tensors = st.lists(numbers, min_size=1, max_size=4).map(lambda entries: vector(*entries))
params = st.dictionaries(st.sampled_from("abc"), tensors, max_size=3)
bounds = st.none() | st.floats(1e-3, 1e4)


def clipped(part, bound):
    """``g · min(1, bound / ‖g‖)`` in plain words."""
    length = sum((t.square().sum().item() for t in part.values()), 0.0) ** 0.5
    if bound is None or length <= bound:
        return part
    return {name: t * (bound / length) for name, t in part.items()}


def shared_sizes(direct, indirect):
    return all(direct[n].shape == indirect[n].shape for n in direct if n in indirect)


@given(direct=params, indirect=params, bound=bounds, indirect_bound=bounds, total=bounds)
@settings(max_examples=50)
def test_each_part_is_bounded_and_keeps_its_direction(
    direct, indirect, bound, indirect_bound, total
):
    if (bound, indirect_bound, total) == (None, None, None) or not shared_sizes(direct, indirect):
        return
    found = Clipping(direct=bound, indirect=indirect_bound, total=total).of(direct, indirect)
    left, right = clipped(direct, bound), clipped(indirect, indirect_bound)
    both = {n: left.get(n, 0) + right.get(n, 0) for n in {**left, **right}}
    expected = clipped(both, total)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-12, atol=1e-300)
    if total is not None and found:
        assert float(norm(found)) <= total * (1 + 1e-12)


@given(part=params, bound=st.floats(1e-3, 1e4))
@settings(max_examples=50)
def test_a_part_below_its_bound_stays_bit_for_bit(part, bound):
    limits = {"direct": bound, "indirect": bound, "total": bound}
    if not part or float(norm(part)) > bound:
        return
    for name in limits:
        given = (part, {}) if name == "direct" else ({}, part)
        assert same_bits(Clipping(**{name: bound}).of(*given), part)


@given(part=params, factor=st.floats(1.0, 1e6))
@settings(max_examples=50)
def test_lengthening_what_is_clipped_changes_nothing(part, factor):
    part = {name: t for name, t in part.items() if float(t.norm()) > 0}
    if not part:
        return
    clipping = Clipping(direct=1e-7)
    once, longer = (clipping.of({n: t * f for n, t in part.items()}, {}) for f in (1.0, factor))
    assert torch.allclose(flat(once), flat(longer), rtol=1e-9)


def test_a_vector_of_zeros_stays():
    assert same_bits(Clipping(direct=1.0).of({"w": torch.zeros(2)}, {}), {"w": torch.zeros(2)})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("field", ["direct", "indirect", "total"])
def test_what_is_not_finite_does_not_become_finite(field, bad):
    part = {"a": vector(1.0, bad), "b": vector(2.0)}
    given = ({}, part) if field == "indirect" else (part, {})
    found = Clipping(**{field: 1.0}).of(*given)
    assert not all(torch.isfinite(t).all() for t in found.values())


def test_finite_entries_whose_squares_overflow_are_refused_and_not_made_zero():
    problem = Problem(
        name="x",
        module=Vector(0.0, 0.0, dtype=torch.float32),
        loss=lambda x: (x.value * 1e30).sum(),
        optimizer=sgd(),
        clipping=Clipping(direct=1.0),
    )
    with pytest.raises(NonFiniteError, match="problem 'x', round 1: gradient is not finite"):
        Engine(Graph(problem), device="cpu").run(1)
    assert torch.equal(problem.module.value, torch.zeros(2))


# In the engine


def leaning(clipping, response=None, pull=3.0):
    """``F = pull·a₀ + 4·x``, ``x*(a) = a₁``: the parts are (pull, 0) and (0, 4)."""
    return Graph(
        Problem(
            name="x",
            module=Vector(0.5),
            loss=lambda x, a: (x.value - a.value[1]).square().sum() / 2,
            optimizer=sgd(0.1),
            response=response or mlo.exact(),
        ),
        Problem(
            name="a",
            module=Vector(0.0, 0.0),
            loss=lambda x, a: pull * a.value[0] + 4 * x.value.sum(),
            optimizer=sgd(),
            clipping=clipping,
        ),
    )


@pytest.mark.parametrize(
    ("clipping", "expected"),
    [
        (None, (3.0, 4.0)),
        (Clipping(direct=1.0), (1.0, 4.0)),
        (Clipping(indirect=1.0), (3.0, 1.0)),
        (Clipping(direct=1.5, indirect=2.0), (1.5, 2.0)),
        (Clipping(direct=100.0, indirect=100.0), (3.0, 4.0)),
        (Clipping(total=2.5), (1.5, 2.0)),
        (Clipping(direct=1.0, total=1.0), (17**-0.5, 4 * 17**-0.5)),
        (Clipping(direct=3.0, indirect=4.0, total=5.0), (3.0, 4.0)),
    ],
)
def test_parts_of_a_hypergradient_have_bounds_of_their_own(clipping, expected):
    graph = leaning(clipping)
    engine = Engine(graph, device="cpu")
    engine.update("x")
    swept = engine.update("a")
    assert torch.allclose(swept.gradient["value"], vector(*expected), rtol=1e-12)
    # What was reported is what was applied.
    assert torch.allclose(graph.problem("a").module.value, -vector(*expected), rtol=1e-12)


def test_an_indirect_part_that_goes_astray_does_not_drown_the_direct_one():
    def astray(inner, solution, upstream, vector, context):
        outcome = mlo.Outcome(solver="astray", code=mlo.Status.ONE_STEP)
        return {"a": {"value": vector_of(1e100)}}, outcome

    def vector_of(number):
        return torch.full((2,), number, dtype=torch.float64)

    engine = Engine(leaning(Clipping(indirect=2**0.5), astray), device="cpu")
    engine.update("x")
    assert torch.allclose(engine.update("a").gradient["value"], vector(4.0, 1.0), rtol=1e-12)


def test_indirect_parts_through_several_problems_are_bounded_together():
    def lower(name):
        return Problem(
            name=name,
            module=Vector(0.0),
            loss=lambda **read: (read[name].value - read["a"].value).square().sum() / 2,
            reads=(name, "a"),
            optimizer=sgd(0.1),
            response=mlo.exact(),
        )

    graph = Graph(
        lower("x"),
        lower("y"),
        Problem(
            name="a",
            module=Vector(0.0),
            loss=lambda x, y, a: (3 * x.value + 4 * y.value + a.value).sum(),
            optimizer=sgd(),
            clipping=Clipping(direct=0.5, indirect=5.0),
        ),
    )
    engine = Engine(graph, device="cpu")
    assert torch.allclose(engine.update("a").gradient["value"], vector(5.5), rtol=1e-12)


def test_a_plain_problem_has_a_direct_part_only():
    def problem(clipping):
        return Problem(
            name="x",
            module=Vector(0.0, 0.0),
            loss=lambda x: (x.value * vector(3.0, 4.0)).sum(),
            optimizer=sgd(),
            clipping=clipping,
        )

    found = [
        Engine(Graph(problem(clipping)), device="cpu").update("x").gradient["value"]
        for clipping in (
            Clipping(direct=1.0),
            Clipping(indirect=1.0),
            Clipping(total=2.5),
            Clipping(direct=2.5, total=1.0),
        )
    ]
    expected = [vector(0.6, 0.8), vector(3.0, 4.0), vector(1.5, 2.0), vector(0.6, 0.8)]
    assert all(torch.allclose(f, e, rtol=1e-12) for f, e in zip(found, expected, strict=True))


def test_a_lower_problem_is_clipped_while_it_is_trained_and_not_while_it_is_differentiated():
    plain, bounded = leaning(None), leaning(None)
    clipping = Clipping(direct=1e-3)
    bounded = Graph(
        *(
            replace(p, clipping=clipping if p.name == "x" else None)
            for p in bounded.problems.values()
        )
    )
    steps, gradients = [], []
    for graph in (plain, bounded):
        engine = Engine(graph, device="cpu")
        engine.update("x")
        steps.append(0.5 - graph.problem("x").module.value.item())
        gradients.append(engine.update("a").gradient)
    assert steps == pytest.approx([0.05, 1e-4])
    assert same_bits(*gradients)


@pytest.mark.parametrize("response", [mlo.finite_difference(), mlo.cg(steps=2, damping=1.0)])
def test_bounds_that_are_not_reached_change_no_bit(response):
    runs = []
    for clipping in (None, Clipping(direct=1e9, indirect=1e9, total=1e9)):
        graph = two_levels(network(), response)
        problems = [
            replace(
                p,
                clipping=clipping,
                batches=[regression_batches()[n]],
                optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
            )
            for n, p in graph.problems.items()
        ]
        graph = Graph(*problems)
        Engine(graph, device="cpu").run(3, show_progress=False)
        runs.append(snapshot(graph))
    assert same_bits(*runs)


@pytest.mark.parametrize("bound", [0.05, 1e3])
def test_a_sparse_gradient_is_bounded_by_the_norm_of_what_it_stands_for(bound):
    rows = torch.tensor([1, 2, 2, 2, 5])  # a row three times: its entries add up

    def table(sparse):
        torch.manual_seed(0)
        return nn.Embedding(10, 2, sparse=sparse).double()

    def loss(table, batch):
        return table(batch).square().sum()

    graph = Graph(
        Problem(
            name="table",
            module=table(sparse=True),
            loss=loss,
            batches=[rows],
            optimizer=sgd(),
            clipping=Clipping(direct=bound),
        )
    )
    Engine(graph, device="cpu").run(1, show_progress=False)
    twin = table(sparse=False)
    loss(twin, rows).backward()
    nn.utils.clip_grad_norm_(twin.parameters(), bound)
    sgd()(twin.parameters()).step()
    assert torch.allclose(graph.problem("table").module.weight, twin.weight, rtol=1e-5)


def test_the_mean_over_micro_batches_is_clipped_not_each_of_them():
    problem = Problem(
        name="x",
        module=Vector(0.0),
        loss=lambda x, batch: x.value.sum() * batch,
        batches=[10.0, -9.0],
        accumulate=2,
        optimizer=sgd(),
        clipping=Clipping(direct=1.0),
    )
    # Clipped one by one, they would cancel.
    assert Engine(Graph(problem), device="cpu").update("x").gradient["value"].item() == 0.5


def test_nan_is_refused_as_always():
    graph = leaning(Clipping(direct=1.0, indirect=1.0, total=1.0), pull=torch.nan)
    engine = Engine(graph, device="cpu")
    before = snapshot(graph)["a.value"]
    with pytest.raises(NonFiniteError, match="problem 'a', round 1: loss is nan"):
        engine.run(1, show_progress=False)
    assert torch.equal(graph.problem("a").module.value, before)


@pytest.mark.parametrize("value", [0, -1.0, torch.inf, torch.nan, True, "1", torch.ones(())])
@pytest.mark.parametrize("field", ["direct", "indirect", "total"])
def test_a_bound_that_cannot_be(field, value):
    with pytest.raises(ProblemError, match=f"clipping: {field} must be a number > 0 or None, got"):
        Clipping(**{field: value})


def test_no_bound_at_all():
    with pytest.raises(ProblemError, match="clipping: give at least one of direct, indirect and"):
        Clipping()


@pytest.mark.parametrize("value", [1.0, {"direct": 1.0}, Clipping])
def test_what_is_no_clipping(value):
    with pytest.raises(ProblemError, match=r"problem 'x': clipping must be mlo.Clipping\(direct="):
        Problem(name="x", module=Vector(1.0), loss=lambda x: x.value.sum(), clipping=value)
