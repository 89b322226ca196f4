"""What the optimizer minimises is the objective: weight decay and the sign belong to it."""

from dataclasses import replace

import pytest
import torch
from torch.optim import SGD

from mlo import Graph, hypergradient
from mlo.testing.quadratic import UPPER, Quadratic
from mlo.testing.strategies import NESTED
from tests.contract.reference import expansion, rate_for
from tests.contract.solvers import ENTRIES, MAIN_SHAPES, Setting, declared, program_of
from tests.programs import relative_error

DECAY = 0.7
# An adaptive update has a law of its own; weight decay in it is tested with its derivative.
PLAIN = [entry for entry in ENTRIES if entry.name not in ("adaptive", "constant")]


def regularised(program: Quadratic) -> Quadratic:
    """Return the program with the weight decay in its lower losses."""
    lower = {
        name: replace(loss, curvature=loss.curvature + DECAY * torch.eye(len(loss.linear)).double())
        for name, loss in program.lower.items()
    }
    return replace(program, lower=lower)


def optimised(graph: Graph, rate: float, **options) -> Graph:
    """Return the graph with gradient descent of these options in every lower problem."""
    problems = [
        p if n == UPPER else replace(p, optimizer=SGD(p.module.parameters(), lr=rate, **options))
        for n, p in graph.problems.items()
    ]
    return Graph(*problems)


def where(graph: Graph, other: Graph) -> None:
    """Set the parameters of `graph` to those of `other`."""
    with torch.no_grad():
        for name, problem in graph.problems.items():
            for key, parameter in problem.parameters().items():
                parameter.copy_(other.problem(name).module.get_parameter(key))


@pytest.mark.parametrize("shape", MAIN_SHAPES)
@pytest.mark.parametrize("entry", PLAIN, ids=str)
def test_weight_decay_of_the_optimizer_is_that_of_the_loss(entry, shape):
    program = program_of(shape, Quadratic)
    setting = Setting(rate=rate_for(expansion(regularised(program))))
    expected = optimised(declared(regularised(program), entry, setting), setting.rate)
    found = optimised(declared(program, entry, setting), setting.rate, weight_decay=DECAY)
    where(found, expected)
    answers = [hypergradient(graph, UPPER).gradient for graph in (found, expected)]
    assert relative_error(*answers) < 1e-9


@pytest.mark.parametrize("shape", MAIN_SHAPES)
@pytest.mark.parametrize("entry", PLAIN, ids=str)
def test_a_maximised_loss_is_a_minimised_one_of_the_opposite_sign(entry, shape):
    if entry.name == "neumann auto" and shape in NESTED:
        pytest.skip("its rate depends on the vector, whose sign differs inside")
    program = program_of(shape, Quadratic)
    setting = Setting(rate=rate_for(expansion(program)))
    expected = optimised(declared(program, entry, setting), setting.rate, weight_decay=DECAY)

    def opposite(loss):
        return lambda **modules: -loss(**modules)

    problems = [
        p if n == UPPER else replace(p, loss=opposite(p.loss), reads=expected.reads(n))
        for n, p in expected.problems.items()
    ]
    found = optimised(Graph(*problems), setting.rate, weight_decay=DECAY, maximize=True)
    answers = [hypergradient(graph, UPPER).gradient for graph in (found, expected)]
    assert relative_error(*answers) < 1e-9
