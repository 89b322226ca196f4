"""Hypergradients against closed forms of random quadratic programs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlo
from mlo import Context, Graph, Problem, Status, hypergradient
from mlo.testing.quadratic import UPPER, Quadratic, closed_form, declare, random_quadratic
from mlo.testing.strategies import SHAPES, programs, quadratics
from tests.programs import (
    Vector,
    at_solution,
    flat,
    network,
    path_sum,
    regression_batches,
    relative_error,
    same_bits,
    solved_with,
    two_levels,
)

PRECISE = 1e-9


def quadratic(shape: str, seed: int = 0) -> Quadratic:
    sizes = dict(zip(SHAPES[shape], (3, 4, 2, 5), strict=False))
    return random_quadratic(sizes, SHAPES[shape], seed=seed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "response",
    [
        mlo.exact(),
        mlo.cg(steps=30),
        mlo.exact(product="finite_difference"),
        mlo.cg(steps=30, product="finite_difference"),
    ],
    ids=lambda response: response.label,
)
@settings(max_examples=5)
@given(data=st.data())
def test_exact_and_full_cg_equal_the_closed_form(shape, response, data):
    program = data.draw(quadratics(SHAPES[shape]))
    graph, expected = solved_with(program, response)
    found = hypergradient(graph, UPPER)
    assert relative_error(found.gradient, expected) < PRECISE
    assert all(outcome.converged for outcome in found.outcomes.values())


@settings(max_examples=60)
@given(programs)
def test_random_programs_of_two_to_six_levels_equal_the_closed_form(program):
    graph, expected = solved_with(program, mlo.exact())
    found = hypergradient(graph, UPPER)
    assert relative_error(found.gradient, expected) < PRECISE
    assert tuple(found.outcomes) == graph.sweeps[UPPER].order


@settings(max_examples=30)
@given(programs, st.integers(1, 6), st.floats(0.2, 1.0))
def test_neumann_error_is_the_predicted_power_of_the_contraction(program, terms, fraction):
    largest = {n: torch.linalg.eigvalsh(loss.curvature).max() for n, loss in program.lower.items()}
    rate = fraction / float(max(largest.values()))
    graph, exact = solved_with(program, mlo.neumann(terms=terms, rate=rate))
    found = hypergradient(graph, UPPER)
    inverses = {}
    for name, loss in program.lower.items():
        identity = torch.eye(len(loss.linear), dtype=torch.float64)
        left_over = torch.linalg.matrix_power(identity - rate * loss.curvature, terms)
        inverses[name] = (identity - left_over) @ torch.linalg.inv(loss.curvature)
    predicted, _ = path_sum(program, inverses, at_solution(program))
    error, predicted_error = flat(found.gradient) - flat(exact), predicted - flat(exact)
    assert float((error - predicted_error).norm()) < PRECISE * float(flat(exact).norm())
    assert not any(o.status is Status.DIVERGED for o in found.outcomes.values())


@given(quadratics(SHAPES["bilevel"]), st.integers(1, 40))
@settings(max_examples=30)
def test_neumann_error_shrinks_by_the_factor_of_the_slowest_direction(program, terms):
    # With the cotangent along one eigenvector the factor is a number: (1 - rate·λ) per term.
    loss = program.lower["x"]
    eigenvalues, basis = torch.linalg.eigh(loss.curvature)
    rate = 1 / float(eigenvalues[-1])
    rows = [n for n in program.upper.reads for _ in range(len(at_solution(program)[n]))]
    linear = torch.zeros(len(rows), dtype=torch.float64)
    linear[[r == "x" for r in rows]] = basis[:, 0]
    upper = replace(program.upper, curvature=torch.zeros(len(rows), len(rows)).double())
    program = replace(program, upper=replace(upper, linear=linear))
    graph, exact = solved_with(program, mlo.neumann(terms=terms, rate=rate))
    error = flat(hypergradient(graph, UPPER).gradient) - flat(exact)
    factor = (1 - rate * float(eigenvalues[0])) ** terms
    assert float(error.norm()) == pytest.approx(factor * float(flat(exact).norm()), abs=1e-12)


@settings(max_examples=30)
@given(programs, st.floats(0.01, 0.5))
def test_one_step_responses_sum_rate_times_vector_over_all_paths(program, rate):
    inverses = {
        n: rate * torch.eye(len(loss.linear), dtype=torch.float64)
        for n, loss in program.lower.items()
    }
    expected, _ = path_sum(program, inverses, at_solution(program))
    for response in (mlo.identity(rate=rate), mlo.finite_difference(rate=rate)):
        graph, _ = solved_with(program, response)
        found = flat(hypergradient(graph, UPPER).gradient)
        assert float((found - expected).norm()) < PRECISE * float(expected.norm())


@pytest.mark.parametrize("radius", [0.1, 0.05])
@pytest.mark.parametrize(
    ("make", "options"),
    [(mlo.identity, {"rate": 0.1}), (mlo.neumann, {"rate": 0.1}), (mlo.exact, {"damping": 2.0})],
    ids=["identity", "neumann", "exact"],
)
def test_halving_the_radius_quarters_the_error_on_a_smooth_network(make, options, radius):
    batches = regression_batches()

    def gradient(product):
        response = make(**options, product=product)
        return hypergradient(two_levels(network(), response), "weights", batches).gradient

    exact = gradient("autograd")
    whole, half, small = (
        relative_error(gradient(mlo.FiniteDifference(radius=r)), exact)
        for r in (radius, radius / 2, 1e-4)
    )
    assert whole / half == pytest.approx(4.0, rel=0.05)
    assert small < 1e-5


def test_contexts_that_are_not_given_are_read_from_the_declaration():
    def graph():
        graph = declare(quadratic("both paths"))
        problems = [
            replace(p, optimizer=lambda q: torch.optim.SGD(q, lr=0.3))
            for p in graph.problems.values()
        ]
        return Graph(*problems)

    contexts = {
        "s": Context(problem="s", rates=dict.fromkeys(graph().problem("s").parameters(), 2))
    }
    program = quadratic("both paths")
    identities = {n: torch.eye(len(loss.linear)).double() for n, loss in program.lower.items()}
    for known, rate in ((None, 0.3), ({}, 0.3), (contexts, 2.0)):
        inverses = {"s": rate * identities["s"], "t": 0.3 * identities["t"]}
        expected, _ = path_sum(program, inverses, at_solution(program))
        found = hypergradient(graph(), UPPER, contexts=known).gradient
        assert torch.allclose(flat(found), expected, rtol=1e-9)


def test_solved_problems_may_respond_in_different_ways():
    program = quadratic("both paths")
    graph = declare(program, {"s": mlo.identity(rate=0.3), "t": mlo.exact()})
    inverses = {
        "s": 0.3 * torch.eye(len(program.lower["s"].linear)).double(),
        "t": torch.linalg.inv(program.lower["t"].curvature),
    }
    expected, paths = path_sum(program, inverses, at_solution(program))
    assert paths == 2
    assert torch.allclose(flat(hypergradient(graph, UPPER).gradient), expected, rtol=1e-10)


@settings(max_examples=20)
@given(programs, st.floats(-4, 4).filter(lambda factor: abs(factor) > 0.1))
def test_the_gradient_is_linear_in_the_upper_loss(program, factor):
    upper = program.upper
    times = replace(upper, curvature=factor * upper.curvature, linear=factor * upper.linear)
    graph, _ = solved_with(program, mlo.cg(steps=3))
    other, _ = solved_with(replace(program, upper=times), mlo.cg(steps=3))
    expected = {k: factor * g for k, g in hypergradient(graph, UPPER).gradient.items()}
    assert relative_error(hypergradient(other, UPPER).gradient, expected) < PRECISE


@settings(max_examples=20)
@given(programs)
def test_renaming_problems_changes_nothing(program):
    names = {name: f"renamed_{len(program.lower) - i}" for i, name in enumerate(program.lower)}
    names[UPPER] = UPPER
    lower = {
        names[name]: replace(loss, couplings={names[a]: b for a, b in loss.couplings.items()})
        for name, loss in program.lower.items()
    }
    reads = tuple(names[n] for n in program.upper.reads)
    renamed = replace(program, lower=lower, upper=replace(program.upper, reads=reads))
    graph, _ = solved_with(program, mlo.cg(steps=2))
    other, _ = solved_with(renamed, mlo.cg(steps=2))
    left, right = hypergradient(graph, UPPER), hypergradient(other, UPPER)
    assert same_bits(left.gradient, right.gradient)
    assert [names[n] for n in left.outcomes] == list(right.outcomes)


@settings(max_examples=20)
@given(programs, st.randoms(use_true_random=False))
def test_the_order_in_which_problems_are_declared_changes_nothing(program, random):
    graph, expected = solved_with(program, mlo.exact())
    problems = list(graph.problems.values())
    random.shuffle(problems)
    shuffled = Graph(*problems, levels=graph.levels)
    assert relative_error(hypergradient(shuffled, UPPER).gradient, expected) < PRECISE


@settings(max_examples=20)
@given(programs)
def test_lower_problems_may_share_one_level(program):
    graph, expected = solved_with(program, mlo.exact())
    levels = {name: int(name == UPPER) for name in graph.problems}
    flat_graph = Graph(*graph.problems.values(), levels=levels)
    assert relative_error(hypergradient(flat_graph, UPPER).gradient, expected) < PRECISE


@pytest.mark.parametrize(
    ("shape", "dropped", "paths_left"), [("both paths", "s", 1), ("diamond", "y", 1)]
)
def test_a_constant_response_drops_exactly_its_paths(shape, dropped, paths_left):
    program = quadratic(shape)
    exact = {n: mlo.exact() for n in program.lower}
    graph = declare(program, exact | {dropped: mlo.constant()})
    inverses = {n: torch.linalg.inv(loss.curvature) for n, loss in program.lower.items()}
    whole, paths = path_sum(program, inverses, at_solution(program))
    inverses[dropped] = torch.zeros_like(inverses[dropped])
    expected, _ = path_sum(program, inverses, at_solution(program))
    found = hypergradient(graph, UPPER)
    assert paths == paths_left + 1
    assert torch.allclose(flat(found.gradient), expected, rtol=1e-10)
    assert not torch.allclose(expected, whole, rtol=0.01)
    assert dropped not in found.outcomes


def test_the_direct_term_alone_is_plain_differentiation():
    a = Vector(1.0, -2.0)
    graph = Graph(Problem(name="a", module=a, loss=lambda a: a.value.pow(3).sum()))
    found = hypergradient(graph, "a")
    assert torch.equal(found.gradient["value"], 3 * a.value.detach() ** 2)
    assert found.outcomes == {}


def test_problems_between_two_levels_are_differentiated_in_their_own_right():
    # y lies in the middle: it has a lower problem x of its own, and an upper one above.
    x, y, upper = Vector(0.7), Vector(0.3), Vector(0.2)
    graph = Graph(
        Problem(
            name="x",
            module=x,
            loss=lambda x, y: (x.value - 2 * y.value).square().sum(),
            response=mlo.exact(),
        ),
        Problem(
            name="y",
            module=y,
            loss=lambda x, y: x.value.square().sum() + y.value.square().sum(),
        ),
        Problem(name="upper", module=upper, loss=lambda upper: upper.value.square().sum()),
    )
    found = hypergradient(graph, "y").gradient["value"]
    assert torch.allclose(found, torch.tensor([2 * 0.3 + 2 * 2 * 0.7]).double())


def test_closed_form_is_what_central_differences_of_the_solved_program_give():
    program = quadratic("both paths", seed=3)
    graph = declare(program)
    step, found = 1e-4, []
    for unit in torch.eye(len(program.start), dtype=torch.float64):
        both = [
            program.upper.value(at_solution(replace(program, start=program.start + sign * unit)))
            for sign in (step, -step)
        ]
        found.append((both[0] - both[1]) / (2 * step))
    assert torch.allclose(torch.stack(found), flat(closed_form(program, graph)), rtol=1e-7)
