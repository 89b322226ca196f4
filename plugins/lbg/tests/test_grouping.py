"""LBG end to end, on the digits."""

import pytest
import torch

from mlo_lbg import routing
from mlo_lbg.architecture import linear_experts
from mlo_lbg.budget import Budget
from mlo_lbg.classifier import train_classifier
from mlo_lbg.data.digits import NUM_CLASSES, NUM_PIXELS, digits
from mlo_lbg.evaluation import evaluate
from mlo_lbg.grouping import Grouping, clipped_rows, learn_by_grouping
from mlo_lbg.problems import SearchSettings
from mlo_lbg.seeds import spawn
from mlo_lbg.training import Optimisation


def test_prediction_routes_as_retraining_did() -> None:
    """Each expert is trained on the examples that the frozen GAM sends to it, and on no other."""
    split = digits(seed=0)
    architecture = linear_experts(inputs=NUM_PIXELS, classes=NUM_CLASSES, num_groups=2)
    grouping = Grouping(
        search=SearchSettings(routing=routing.SOFT),
        budget=Budget(rounds=40),
        retrain=Optimisation(epochs=3),
    )
    trained, _ = learn_by_grouping(split.train, architecture, grouping, seed=0)
    groups = trained.groups(split.train.inputs)
    refit = spawn(0, 4)[3]
    for group, seed in enumerate(spawn(refit, 2)):
        alone = train_classifier(
            split.train.subset(groups == group),
            architecture.make_expert,
            grouping.retrain,
            seed=seed,
        )
        assert torch.equal(alone.weight, trained.experts[group].weight)


def test_one_group_is_one_network_on_all_examples() -> None:
    split = digits(seed=0)
    architecture = linear_experts(inputs=NUM_PIXELS, classes=NUM_CLASSES, num_groups=1)
    grouping = Grouping(
        search=SearchSettings(routing=routing.SOFT),
        budget=Budget(rounds=5),
        retrain=Optimisation(epochs=3),
        make_assignments=clipped_rows,
    )
    trained, _ = learn_by_grouping(split.train, architecture, grouping, seed=0)
    alone = train_classifier(
        split.train, architecture.make_expert, grouping.retrain, seed=spawn(spawn(0, 4)[3], 1)[0]
    )
    assert torch.equal(alone.weight, trained.experts[0].weight)


@pytest.mark.parametrize("seed", [0])
def test_soft_routing_finds_the_orientation(seed: int) -> None:
    """One seed of the claim that `test_program.py` checks over five."""
    split = digits(seed=seed)
    architecture = linear_experts(inputs=NUM_PIXELS, classes=NUM_CLASSES, num_groups=2)
    grouping = Grouping(search=SearchSettings(routing=routing.SOFT))
    trained, history = learn_by_grouping(split.train, architecture, grouping, seed=seed)
    found = evaluate(trained, split.test, num_groups=2)
    assert found.groups is not None
    assert found.groups.nmi_attribute > 0.8
    assert history[-1].nmi_attribute > 0.8
