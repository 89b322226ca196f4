"""The three ways to take the mixed products of Learning by Grouping by hand agree."""

import pytest
import torch
from torch import nn

from mlo.bench import lbg_by_hand
from mlo.bench.lbg_by_hand import Level
from mlo.bench.lbg_round import expert_terms, gam_terms
from mlo.bench.peers import quiet

GROUPS, CLASSES, INPUTS, EXAMPLES = 3, 4, 5, 8


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Embedding(EXAMPLES, GROUPS, sparse=True, dtype=torch.float64)

    def forward(self, index):
        return self.logits(index).softmax(-1)


def smooth(outputs):
    layers = nn.Linear(INPUTS, 6), nn.Tanh(), nn.Linear(6, outputs)
    return nn.Sequential(*layers).double()


@pytest.fixture(params=["gam", "experts"])
def level(request):
    torch.manual_seed(0)
    gam, rows = smooth(GROUPS), Rows()
    if request.param == "gam":
        return Level(gam, rows, gam_terms)
    experts = nn.ModuleList(smooth(CLASSES) for _ in range(GROUPS))
    return Level(experts, gam, expert_terms)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(EXAMPLES, INPUTS, dtype=torch.float64, generator=generator)
    targets = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    return torch.arange(EXAMPLES), inputs, targets


def flat(mixed, level, batch, vector):
    with quiet():
        found = mixed(level, batch, vector)
    return torch.cat([t.to_dense().reshape(-1) for t in found])


@pytest.mark.parametrize(
    ("mixed", "tolerance"), [(lbg_by_hand.separably, 1e-12), (lbg_by_hand.by_difference, 1e-3)]
)
def test_the_mixed_product_is_that_of_double_backward(level, batch, mixed, tolerance):
    vector = [torch.randn_like(p) for p in level.own.parameters()]
    expected = flat(lbg_by_hand.by_autograd, level, batch, vector)
    distance = flat(mixed, level, batch, vector) - expected
    assert expected.norm() > 0
    assert distance.norm() <= tolerance * expected.norm()


def test_a_difference_leaves_the_weights_bit_for_bit(level, batch):
    before = [p.detach().clone() for p in level.own.parameters()]
    flat(lbg_by_hand.by_difference, level, batch, [torch.ones_like(p) for p in before])
    assert all(
        torch.equal(p, b) and p.requires_grad
        for p, b in zip(level.own.parameters(), before, strict=True)
    )
