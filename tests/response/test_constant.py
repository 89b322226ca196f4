import torch

import mlo
from mlo import Context, Graph, Problem, Status
from tests.programs import Vector


def test_it_answers_nothing_without_evaluating_the_loss():
    def inner(solution, upstream):
        raise AssertionError("never called")

    vector = {"w": torch.ones(1)}
    answer, outcome = mlo.constant()(inner, vector, {}, vector, Context(problem="x"))
    assert answer == {}
    assert outcome.status is Status.ONE_STEP


def test_no_cotangent_flows_through_it():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(1.0),
            loss=lambda x, above: (x.value - above.value).square().sum(),
            response=mlo.constant(),
        ),
        Problem(
            name="above", module=Vector(2.0), loss=lambda x, above: (x.value * above.value).sum()
        ),
    )
    assert graph.sweeps["above"].order == ()
    assert mlo.hypergradient(graph, "above").gradient["value"].item() == 1.0
