"""What a sweep evaluates, counted: linear in the graph, where paths are exponential."""

import pytest
import torch

import mlo
from mlo import Graph, Problem, hypergradient
from mlo.testing.quadratic import UPPER, declare, random_quadratic
from tests.programs import Vector, at_solution, counted, flat, fully_connected, path_sum


def connected_program(lower, *, size=3):
    reads = fully_connected(lower)
    return random_quadratic(dict.fromkeys(reads, size), reads, condition=2.0)


@pytest.mark.parametrize("lower", [3, 6, 10])
def test_finite_differences_cost_two_evaluations_a_lower_problem_and_one_above(lower):
    program = connected_program(lower)
    responses = dict.fromkeys(program.lower, mlo.finite_difference(rate=0.1))
    graph, counts = counted(declare(program, responses))
    hypergradient(graph, UPPER)
    assert counts == {**dict.fromkeys(program.lower, 2), UPPER: 1}
    assert sum(counts.values()) == 2 * lower + 1


@pytest.mark.parametrize("lower", [3, 6, 10])
@pytest.mark.parametrize(
    "response",
    [mlo.identity(rate=0.1), mlo.neumann(terms=4, rate=0.1), mlo.cg(steps=3), mlo.exact()],
    ids=lambda response: response.label,
)
def test_autograd_products_cost_one_evaluation_a_problem(lower, response):
    program = connected_program(lower)
    graph, counts = counted(declare(program, dict.fromkeys(program.lower, response)))
    hypergradient(graph, UPPER)
    assert counts == dict.fromkeys(graph.problems, 1)


@pytest.mark.parametrize(("lower", "num_paths"), [(3, 7), (6, 63), (10, 1023)])
def test_one_visit_a_problem_equals_the_sum_over_all_paths(lower, num_paths):
    program = connected_program(lower)
    responses = dict.fromkeys(program.lower, mlo.finite_difference(rate=0.1))
    found = hypergradient(declare(program, responses), UPPER).gradient
    inverses = {n: 0.1 * torch.eye(3, dtype=torch.float64) for n in program.lower}
    expected, paths = path_sum(program, inverses, at_solution(program))
    assert paths == num_paths
    assert torch.allclose(flat(found), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("response", "evaluations"),
    [
        (mlo.finite_difference(rate=0.1), 2),
        (mlo.identity(rate=0.1, product="finite_difference"), 2),
        (mlo.neumann(terms=5, rate=0.01, product="finite_difference"), 2 * (4 + 1)),
        (mlo.cg(steps=4, product="finite_difference"), 2 * (4 + 1)),
        (mlo.exact(product="finite_difference"), 2 * (6 + 1)),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_finite_difference_products_cost_what_they_announce(response, evaluations):
    program = random_quadratic({"x": 6, UPPER: 2}, {"x": [UPPER], UPPER: ["x"]}, condition=50.0)
    graph, counts = counted(declare(program, {"x": response}))
    hypergradient(graph, UPPER)
    assert counts == {"x": evaluations, UPPER: 1}
    assert response.evaluations in (evaluations, None)


def test_a_problem_that_does_not_depend_on_the_target_is_never_evaluated():
    reads = {"apart": [], "x": ["apart", UPPER], UPPER: ["x", "apart"]}
    program = random_quadratic({"apart": 2, "x": 3, UPPER: 2}, reads)
    graph, counts = counted(declare(program, {"x": mlo.exact()}))
    found = hypergradient(graph, UPPER)
    assert counts == {"apart": 0, "x": 1, UPPER: 1}
    assert list(found.outcomes) == ["x"]


def test_a_problem_that_the_target_does_not_depend_on_is_never_evaluated():
    graph = Graph(
        Problem(
            name="aside",
            module=Vector(1.0),
            loss=lambda aside, upper: (aside.value * upper.value).square().sum(),
        ),
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lambda x, upper: (x.value - upper.value).square().sum(),
            response=mlo.exact(),
        ),
        Problem(name=UPPER, module=Vector(1.0), loss=lambda x: x.value.sum()),
    )
    graph, counts = counted(graph)
    found = hypergradient(graph, UPPER)
    assert counts == {"aside": 0, "x": 1, UPPER: 1}
    assert list(found.outcomes) == ["x"]


def test_only_wanted_gradients_are_asked_for(monkeypatch):
    # A finite-difference pass needs gradients of what is above, none of the perturbed weights.
    asked = []
    backward = torch.autograd.grad

    def recording(outputs, inputs, *args, **kwargs):
        asked.append([any(t is v for v in upper_values) for t in inputs])
        return backward(outputs, inputs, *args, **kwargs)

    def loss(x, upper):
        # A loss may look which parameters are trained, to penalise them, say.
        assert x.value.requires_grad
        return (x.value - upper.value).square().sum()

    graph = Graph(
        Problem(name="x", module=Vector(1.0), loss=loss, response=mlo.finite_difference(rate=0.1)),
        Problem(name=UPPER, module=Vector(2.0), loss=lambda x: x.value.sum()),
    )
    upper_values = list(graph.problem(UPPER).module.parameters())
    monkeypatch.setattr(torch.autograd, "grad", recording)
    hypergradient(graph, UPPER)
    first_hop, *passes = asked
    assert first_hop == [False]
    assert passes == [[True], [True]]
