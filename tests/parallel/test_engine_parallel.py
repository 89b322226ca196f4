"""N ranks that share each batch train as one process does with the whole of it."""

from dataclasses import replace

import pytest
import torch

import mlo
from mlo.errors import BatchError, ProblemError
from tests.parallel.launching import on_ranks
from tests.parallel.programs import PROGRAMS, bilevel, largest_error, trained

TOLERANCE = 1e-10
# Two updates of the model and one of the weights; both have a weight, a bias and a loss.
CARRIED, FLAGS = 8 * (3 + 1 + 1), 8 * 2 * 3


# Of what is much the same as another, or takes long.
ONLY_SLOW = {
    "bilevel, neumann, auto",
    "bilevel, cg by differences",
    "weighted, by differences",
    "adaptive, Adam",
    "micro-batches, weighted",
    "routed, identity",
    "silent ranks, by differences",
    "nested, cg",
}


def train_all(ranks, names):
    return {name: trained(PROGRAMS[name](), ranks) for name in names}


def check(size, names, seconds):
    expected = {name: trained(PROGRAMS[name]()) for name in names}
    answers = on_ranks(train_all, size, names, seconds=seconds)
    errors = {
        name: max(largest_error(found[name], expected[name]) for found in answers) for name in names
    }
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
    for found in answers[1:]:
        for name in names:
            for key, tensor in found[name].state.items():
                assert tensor.equal(answers[0][name].state[key]), f"{name}: {key} has drifted"
    return answers[0]


def test_two_ranks_train_as_one():
    found = check(2, [name for name in PROGRAMS if name not in ONLY_SLOW], seconds=200)
    counts = {
        name: {kind: volume.count for kind, volume in each.round.kinds.items()}
        for name, each in found.items()
    }
    # The cotangent, and the gradient with the loss: nothing else where no Hessian is needed.
    assert counts["bilevel, finite_difference"] == {"gradients": 2, "means": 2}
    assert counts["weighted, identity"] == {"gradients": 2, "means": 2}
    # Conjugate gradients take the gradient once, and then one for each product.
    assert counts["bilevel, cg"]["gradients"] == counts["bilevel, cg"]["means"] == 2
    assert counts["bilevel, cg"]["copies"] <= 1 + 5
    assert counts["bilevel, exact"]["copies"] == 1 + 4
    volumes = found["bilevel, finite_difference"].round.kinds
    assert volumes["gradients"].bytes == 2 * (CARRIED + FLAGS)


@pytest.mark.slow
def test_two_ranks_train_the_others_as_one():
    check(2, sorted(ONLY_SLOW), seconds=200)


@pytest.mark.slow
def test_four_ranks_train_as_one():
    check(4, list(PROGRAMS), seconds=400)


def with_short_batches(ranks):
    short = [(torch.ones(1, 3).double(), torch.ones(1, 1).double())]
    problems = bilevel(mlo.identity()).problems
    with pytest.raises(BatchError) as caught:
        trained(mlo.Graph(*(replace(p, batches=short) for p in problems.values())), ranks)
    return str(caught.value)


def test_a_batch_with_fewer_rows_than_ranks_is_refused_by_all():
    for message in on_ranks(with_short_batches, 2):
        assert message.startswith("problem 'model': batch 1 of epoch 1: a batch for 2 ranks must")


def with_other_modules(ranks):
    problems = dict(bilevel(mlo.identity()).problems)
    problems["weights"] = replace(
        problems["weights"], module=torch.nn.Linear(3, 1 + ranks.rank).double()
    )
    with pytest.raises(ProblemError) as caught:
        mlo.Engine(mlo.Graph(*problems.values()), device="cpu", ranks=ranks)
    return str(caught.value)


def test_modules_that_differ_are_refused_by_all():
    for message in on_ranks(with_other_modules, 2):
        assert "'weight' must be alike on all ranks" in message


def from_other_weights(ranks):
    graph = bilevel(mlo.identity())
    with torch.no_grad():
        graph.problems["model"].module.weight.add_(ranks.rank)
    return trained(graph, ranks)


def test_ranks_begin_with_the_parameters_of_rank_0():
    expected = trained(bilevel(mlo.identity()))
    for found in on_ranks(from_other_weights, 2):
        assert largest_error(found, expected) <= TOLERANCE
