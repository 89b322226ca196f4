"""Learning by grouping on several ranks, whose examples may all go to one expert."""

import pytest
import torch
from torch import nn

from mlo_lbg.assignments import Assignments
from mlo_lbg.problems import Modules, SearchSettings, three_levels
from mlo_lbg.routing import HARD, SOFT
from tests.parallel.launching import on_ranks
from tests.parallel.programs import largest_error, trained

ROWS, INPUTS, CLASSES, GROUPS = 40, 4, 3, 3
ROUTINGS = {"hard": HARD, "soft": SOFT}


def network(outputs):
    return nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def program(routing, product):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        modules = Modules(
            gam=network(GROUPS),
            experts=nn.ModuleList(network(CLASSES) for _ in range(GROUPS)),
            assignments=Assignments(num_examples=ROWS, num_groups=GROUPS, scale=1.0).double(),
        )

        def batches(*counts):
            return [
                (
                    torch.randperm(ROWS)[:count],
                    torch.randn(count, INPUTS).double(),
                    torch.randint(CLASSES, (count,)),
                )
                for count in counts
            ]

        # With few rows a rank, some experts get none on some ranks.
        train = batches(7, 9, 5)
        settings = SearchSettings(routing=ROUTINGS[routing], product=product)
        return three_levels(
            modules,
            settings,
            gam_batches=train,
            expert_batches=train,
            validation_batches=batches(6, 8),
        )


KINDS = [
    ("hard", "autograd"),
    ("soft", "autograd"),
    ("hard", "finite_difference"),
    ("soft", "finite_difference"),
]


def train_all(ranks, rounds):
    return [trained(program(*kind), ranks, rounds) for kind in KINDS]


def check(size, rounds, seconds):
    expected = [trained(program(*kind), rounds=rounds) for kind in KINDS]
    answers = on_ranks(train_all, size, rounds, seconds=seconds)
    for found in answers:
        for kind, one, other in zip(KINDS, found, expected, strict=True):
            assert largest_error(one, other) <= 1e-10, kind
    return answers


def test_two_ranks_group_as_one():
    for found in check(2, 4, seconds=120):
        for each in found:
            moved = each.state["assignments.logits.weight"]
            assert moved.shape == (ROWS, GROUPS)
            # The gradient of C travels as the rows of a batch, not as N x K numbers.
            assert each.round.total.bytes < 8 * 2000


@pytest.mark.slow
def test_four_ranks_group_as_one():
    check(4, 6, seconds=300)
