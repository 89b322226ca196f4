"""The fair program's hypergradient against autograd through the updates, and a whole run."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import mlo
from mlo_lbg.architecture import linear_experts
from mlo_lbg.assignments import Assignments
from mlo_lbg.budget import Budget
from mlo_lbg.data.dataset import Examples
from mlo_lbg.fair.fair_grouping import (
    FairGrouping,
    learn_fair_grouping,
    separate_experts,
    shared_network,
    with_offsets,
)
from mlo_lbg.fair.objectives import equalized_odds, penalised
from mlo_lbg.fair.offsets import OffsetError, OffsetSettings
from mlo_lbg.fair.penalty import PenaltyError, penalised_network
from mlo_lbg.fair.problems import (
    FairSettings,
    Offsets,
    fair_levels,
    mixture_log_probabilities,
)
from mlo_lbg.fairness import fairness
from mlo_lbg.problems import Modules, SearchSettings, distributed
from mlo_lbg.routing import SOFT_MIXTURE
from mlo_lbg.training import Optimisation

XI_T, XI_S, BATCH = 0.7, 0.3, 16
FAIR = FairSettings(objective=penalised(equalized_odds, weight=3.0), balance=0.5)


def test_the_hypergradient_is_that_of_the_one_step_updates() -> None:
    torch.manual_seed(0)
    modules = Modules(
        gam=nn.Linear(3, 2).double(),
        experts=nn.ModuleList(nn.Linear(3, 2).double() for _ in range(2)),
        assignments=Assignments(num_examples=BATCH, num_groups=2, scale=1.0).double(),
    )
    offsets = Offsets(num_groups=2, num_classes=2).double()
    nn.init.normal_(offsets.values)
    rows = torch.arange(BATCH)
    x, vx = torch.randn(2, BATCH, 3).double()
    y, vy, va = torch.randint(2, (3, BATCH))
    batches = {
        "gam": (rows, x, y),
        "experts": (rows, x, y),
        "offsets": (rows, vx, vy, va),
        "assignments": (rows, vx, vy, va),
    }
    graph = fair_levels(
        modules,
        offsets,
        SearchSettings(
            routing=SOFT_MIXTURE, gam_loss=distributed, gam_rate=XI_T, experts_rate=XI_S
        ),
        FAIR,
        gam_batches=[batches["gam"]],
        expert_batches=[batches["experts"]],
        offset_batches=[batches["offsets"]],
        validation_batches=[batches["assignments"]],
    )
    found = mlo.hypergradient(graph, "assignments", batches).gradient["logits.weight"].to_dense()

    def step(
        values: dict[str, torch.Tensor], loss: torch.Tensor, rate: float
    ) -> dict[str, torch.Tensor]:
        gradients = torch.autograd.grad(loss, list(values.values()), create_graph=True)
        return {
            n: p - rate * (g - g.detach())
            for (n, p), g in zip(values.items(), gradients, strict=True)
        }

    def answers(values: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        one = [inputs @ values[f"{k}.weight"].T + values[f"{k}.bias"] for k in range(2)]
        return torch.stack(one, 1)

    logits = modules.assignments.all_rows().log().clone().requires_grad_()
    gam = {n: p.detach().clone().requires_grad_() for n, p in modules.gam.named_parameters()}
    experts = {
        n: p.detach().clone().requires_grad_() for n, p in modules.experts.named_parameters()
    }
    log_f = functional_call(modules.gam, gam, (x,)).log_softmax(-1)
    gam = step(gam, -(logits.softmax(-1) * log_f).sum(-1).mean(), XI_T)
    f = functional_call(modules.gam, gam, (x,)).softmax(-1)
    z = answers(experts, x)
    losses = cross_entropy(z.flatten(0, 1), y.repeat_interleave(2), reduction="none").view(-1, 2)
    experts = step(experts, (f * losses).sum(-1).mean(), XI_S)
    scores = functional_call(modules.gam, gam, (vx,))
    log_p = mixture_log_probabilities(scores, answers(experts, vx), offsets.values.detach())
    mean = scores.softmax(-1).mean(0)
    loss = FAIR.objective(log_p, vy, va) + FAIR.balance * (mean * mean.log()).sum()
    (expected,) = torch.autograd.grad(loss, logits)
    assert float((found - expected).norm() / expected.norm()) < 1e-10


def biased(n: int = 600) -> Examples:
    """Value 1 has more positives, and its inputs tell it apart."""
    g = torch.Generator().manual_seed(0)
    attribute = torch.randint(2, (n,), generator=g)
    targets = (torch.rand(n, generator=g) < 0.25 + 0.4 * attribute).long()
    inputs = torch.randn(n, 4, generator=g)
    inputs[:, 0] += 1.2 * targets
    inputs[:, 1] += 3.0 * attribute
    return Examples(
        inputs=inputs, targets=targets, attribute=attribute, num_classes=2, num_attributes=2
    )


SHORT = FairGrouping(
    budget=Budget(rounds=10, batch_size=64),
    validation_batch_size=128,
    optimisation=Optimisation(epochs=5, batch_size=64),
    offsets=OffsetSettings(error_budget=0.08),
)


@pytest.mark.parametrize("retrain", [shared_network, separate_experts])
@pytest.mark.parametrize("learned", [True, False])
def test_a_larger_error_budget_buys_a_smaller_training_gap(retrain: object, learned: bool) -> None:
    train = biased()
    architecture = linear_experts(inputs=4, classes=2, num_groups=2)
    settings = replace(SHORT, retrain=retrain, learned=learned)
    found, history = learn_fair_grouping(train, architecture, settings, seed=0)
    assert history

    def gap(budget: float) -> float:
        refitted = with_offsets(found, train, OffsetSettings(error_budget=budget))
        return fairness(
            refitted.predict(train.inputs),
            train.targets,
            train.attribute,
            num_classes=2,
            num_attributes=2,
        ).equalized_odds.mean

    assert gap(0.1) <= gap(0.02) + 1e-3 <= gap(0.0) + 2e-3
    assert gap(0.1) < gap(0.0)


def test_the_same_seed_gives_the_same_predictor_and_classes_are_counted() -> None:
    train = biased()
    architecture = linear_experts(inputs=4, classes=2, num_groups=2)
    first, second = (learn_fair_grouping(train, architecture, SHORT, seed=3)[0] for _ in range(2))
    assert torch.equal(first.probabilities(train.inputs), second.probabilities(train.inputs))
    assert first.num_parameters == 10 + 2 + sum(p.numel() for p in first.experts[0].parameters())
    with pytest.raises(OffsetError, match="num_classes: expected 2, got 3"):
        learn_fair_grouping(replace(train, num_classes=3), architecture, SHORT, seed=0)


def test_the_penalty_lowers_the_gap_of_one_network() -> None:
    train = biased()
    architecture = linear_experts(inputs=4, classes=2, num_groups=2)

    def gap(weight: float, dual_rate: float) -> float:
        network = penalised_network(
            train,
            architecture,
            Optimisation(epochs=20, batch_size=300),
            weight=weight,
            dual_rate=dual_rate,
            seed=0,
        )
        return fairness(
            network.predict(train.inputs),
            train.targets,
            train.attribute,
            num_classes=2,
            num_attributes=2,
        ).equalized_odds.mean

    assert gap(1.0, 0.0) < 0.6 * gap(0.0, 0.0)
    assert gap(0.0, 0.1) < 0.6 * gap(0.0, 0.0)
    with pytest.raises(PenaltyError, match="weight: expected 0 or more, got -1"):
        gap(-1.0, 0.0)
