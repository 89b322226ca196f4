"""What can be seen to be wrong without running is refused when the graph is built."""

import copy
import functools

import pytest
import torch
from torch import nn

import mlo
from mlo import Graph, GraphError, Problem, ProblemError
from tests.programs import Vector


def problem(name, *reads, **options):
    """A problem that multiplies all that it reads."""

    def loss(**modules):
        return functools.reduce(torch.mul, [m.value for m in modules.values()]).sum()

    return Problem(name=name, module=Vector(1.0), loss=loss, reads=reads, **options)


def refused(message, *problems, levels=None):
    with pytest.raises(GraphError, match=message) as caught:
        Graph(*problems, levels=levels)
    assert "\n" not in str(caught.value)


def test_a_loss_that_reads_an_unknown_name():
    def train_loss(model, weigths, batch):
        return model.weight.sum()

    message = r"problem 'model': its loss reads 'weigths', .* \(did you mean 'weights'\?\)"
    refused(
        message,
        Problem(name="model", module=nn.Linear(1, 1), loss=train_loss),
        Problem(name="weights", module=nn.Linear(1, 1), loss=lambda model: model.weight.sum()),
    )


def test_reads_that_name_an_unknown_problem():
    refused(r"reads names 'y', expected one of the problems \('x',\)", problem("x", "x", "y"))


def test_nobody_depends_on_the_upper_problem_which_has_no_direct_term():
    message = (
        "problem 'upper' would never move: its loss does not read 'upper', and no lower problem "
        "that it reads depends on it. x reads x; upper reads x. Did a lower loss mean to take 'upp"
    )
    refused(message, problem("x", "x"), problem("upper", "x"))


def test_nobody_depends_on_the_upper_problem_which_has_a_direct_term():
    message = (
        "problem 'upper': its loss reads the lower problem 'x', but no lower loss that "
        "it reads depends on 'upper', so "
        "nothing would be differentiated through 'x'.* give 'x' response=mlo.constant"
    )
    refused(message, problem("x", "x"), problem("upper", "x", "upper"))


def test_a_lower_problem_may_be_taken_as_a_constant_on_purpose():
    graph = Graph(
        problem("x", "x", response=mlo.constant()),
        problem("upper", "x", "upper"),
    )
    assert graph.sweeps["upper"].order == ()


def test_a_problem_that_depends_on_the_upper_one_but_that_nothing_above_reads():
    message = "problem 'upper' would never move: its loss does not read 'upper', and no lower"
    refused(message, problem("x", "x"), problem("y", "y", "upper"), problem("upper", "x"))


def test_a_declared_response_that_nothing_uses():
    message = (
        r"problem 'y' declares response=cg\(steps=10\), but nothing differentiates through it: "
        "that takes a problem of a higher level that reads 'y'"
    )
    refused(
        message,
        problem("x", "x", "upper"),
        problem("y", "y", response=mlo.cg()),
        problem("upper", "x"),
    )
    refused("problem 'x' declares response", problem("x", "x", response=mlo.cg()))
    message = "problem 'upper' declares response"
    refused(message, problem("x", "x", "upper"), problem("upper", "x", response=mlo.cg()))


def test_levels_in_the_wrong_order_leave_the_upper_problem_without_a_gradient():
    message = "problem 'upper' would never move"
    refused(message, problem("upper", "x"), problem("x", "x", "upper"))


def test_a_problem_that_does_not_read_itself_never_moves():
    refused("problem 'x' would never move", problem("x", "upper"), problem("upper", "x", "upper"))


CIRCLES = {
    "two": [
        problem("x", "x", "y", "upper"),
        problem("y", "y", "x", "upper"),
        problem("upper", "x", "y"),
    ],
    "three": [
        problem("x", "x", "y"),
        problem("y", "y", "z"),
        problem("z", "z", "x", "upper"),
        problem("upper", "x"),
    ],
}


@pytest.mark.parametrize("problems", CIRCLES.values(), ids=CIRCLES)
def test_a_circle_among_problems_of_one_level(problems):
    message = (
        "problem 'upper' cannot be differentiated: the problems below it depend on each other in a "
        "circle, (x|y|z) -> .*no level says which is solved within which.*response=mlo.constant"
    )
    levels = {p.name: int(p.name == "upper") for p in problems}
    refused(message, *problems, levels=levels)


def nested(response=None):
    """a → b*(a) → c*(b): the optimum of c is part of the objective of b."""
    return [
        problem("c", "c", "b", response=response),
        problem("b", "b", "c", "a"),
        problem("a", "a", "b"),
    ]


@pytest.mark.parametrize("upper_reads", [("a", "b"), ("a", "c"), ("c",), ("a", "b", "c")])
def test_a_nested_program_is_solved_from_within(upper_reads):
    inner, middle, _ = nested()
    sweep = Graph(inner, middle, problem("a", *upper_reads)).sweeps["a"]
    assert sweep.order == (("c", "b") if "c" in upper_reads else ("b",))
    assert sweep.within == {"c": (), "b": ("c",)}
    assert sweep.flows == {"c": ("b",), "b": ("a",)}


def test_upper_variables_may_enter_a_nested_program_below_the_middle():
    # a → c*(a, b), and b* answers to c*: b depends on a through c alone.
    sweep = Graph(
        problem("c", "c", "b", "a"), problem("b", "b", "c"), problem("a", "a", "b")
    ).sweeps["a"]
    assert sweep.flows == {"c": ("b", "a"), "b": ("a",)}


def test_a_response_that_cannot_be_differentiated_again_is_refused_within_another_objective():
    def own(inner, solution, upstream, vector, context):
        raise AssertionError

    refused(
        "problem 'c': its solution is part of the objective of 'b', through which 'a' is "
        r"differentiated, and own cannot be differentiated again; give 'c' .*mlo.cg\(\)",
        *nested(own),
    )


def test_the_way_out_of_a_nested_program_is_to_drop_a_path_on_purpose():
    graph = Graph(*nested(mlo.constant()))
    assert graph.sweeps["a"].order == ("b",)
    assert graph.sweeps["b"].order == ()


def test_the_middle_of_a_nested_program_can_be_differentiated_alone():
    inner, middle, _ = nested()
    graph = Graph(inner, middle, problem("a", "a"))
    assert graph.sweeps["b"].order == ("c",)


def test_an_empty_loader():
    with pytest.raises(ProblemError, match="problem 'x': batches is empty"):
        problem("x", "x", batches=[])


def test_two_problems_that_train_one_tensor():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    message = "problems 'a' and 'b' both train the same tensor .b.weight.; each parameter belongs"
    refused(
        message,
        Problem(name="a", module=first, loss=lambda a: a.weight.sum()),
        Problem(name="b", module=second, loss=lambda b: b.weight.sum()),
    )


def test_two_problems_may_share_a_frozen_tensor():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    first.weight.requires_grad_(False)
    Graph(
        Problem(name="a", module=first, loss=lambda a: a.bias.sum()),
        Problem(name="b", module=second, loss=lambda b: b.bias.sum()),
    )


def test_two_problems_of_one_name():
    refused("two problems are called 'x'; names must be unique", *[problem("x", "x")] * 2)


def test_no_problems_at_all():
    refused("a graph needs at least one problem, got none")


def test_what_is_no_problem():
    refused("a graph takes Problem objects, got Linear", nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"x": 0, "uper": 1}, r"levels names 'uper', expected one of .* mean 'upper'\?"),
        ({"x": 0}, "levels does not say the level of 'upper'; got {'x': 0}"),
        ({"x": 0, "upper": 1.5}, "levels: level of 'upper' must be an integer, got 1.5"),
        ({"x": False, "upper": 1}, "levels: level of 'x' must be an integer, got False"),
    ],
)
def test_bad_levels(levels, message):
    refused(message, problem("x", "x", "upper"), problem("upper", "x"), levels=levels)


def test_levels_are_numbered_without_gaps():
    levels = {"x": -3, "y": 10, "upper": 40}
    problems = problem("x", "x", "upper"), problem("y", "y", "x"), problem("upper", "y", "upper")
    graph = Graph(*problems, levels=levels)
    assert dict(graph.levels) == {"x": 0, "y": 1, "upper": 2}
    assert dict(Graph(*problems).levels) == {"x": 0, "y": 1, "upper": 2}


def test_an_unknown_problem_is_refused_with_the_nearest_name():
    graph = Graph(problem("model", "model"))
    for ask in (graph.problem, graph.reads, graph.response, graph.pure_loss):
        with pytest.raises(GraphError, match=r"called 'modle', .* \(did you mean 'model'\?\)"):
            ask("modle")


def test_a_graph_can_be_copied():
    graph = Graph(problem("x", "x", "upper"), problem("upper", "x"))
    copied = copy.deepcopy(graph)
    assert copied.explain() == graph.explain()
    assert copied.problem("x").module is not graph.problem("x").module


def test_a_problem_that_only_an_unrelated_lower_problem_reads():
    """Nothing would be differentiated through 'x', though somebody reads 'upper'."""
    refused(
        "no lower loss that it reads depends on 'upper'",
        problem("x", "x"),
        problem("y", "y", "upper"),
        problem("upper", "x", "upper"),
    )


def test_the_wrong_order_is_named():
    refused(
        "'x' reads it but is of a higher level: .* list the lowest level first",
        problem("upper", "x"),
        problem("x", "x", "upper"),
    )


def test_a_plain_function_is_a_response():
    def silent(inner, solution, upstream, vector, context):
        return {}, mlo.Outcome(solver="silent", code=mlo.Status.CONVERGED)

    graph = Graph(problem("x", "x", "upper", response=silent), problem("upper", "x"))
    assert graph.response("x").label == "silent"


def test_the_default_response_is_one_step_by_finite_differences():
    graph = Graph(problem("x", "x", "upper"), problem("upper", "x"))
    assert graph.response("x").label == "finite_difference()"
