"""The search: diagnoses, early stopping, the control."""

import pytest
import torch
from torch import nn

from mlo.errors import MloError
from mlo_lbg import routing
from mlo_lbg.assignments import Assignments, ClippedAssignments
from mlo_lbg.budget import Budget
from mlo_lbg.data.dataset import Halves
from mlo_lbg.data.digits import digits
from mlo_lbg.diagnosis import Diagnosis
from mlo_lbg.models.perceptron import linear
from mlo_lbg.problems import Modules, SearchSettings
from mlo_lbg.search import search


def halves() -> Halves:
    return digits(seed=0).halves(seed=0)


def modules(num_groups: int = 2, *, clipped: bool = False) -> Modules:
    torch.manual_seed(0)
    kind = ClippedAssignments if clipped else Assignments
    return Modules(
        gam=linear(64, num_groups),
        experts=nn.ModuleList(linear(64, 10) for _ in range(num_groups)),
        assignments=kind(num_examples=len(halves().train), num_groups=num_groups),
    )


SOFT = SearchSettings(routing=routing.SOFT)


def test_a_diagnosis_after_each_epoch_and_after_the_last_round() -> None:
    seen: list[Diagnosis] = []
    search(modules(), SOFT, halves(), Budget(rounds=25), seed=0, observe=seen.append)
    assert [(d.round, d.epoch) for d in seen] == [(10, 1), (20, 2), (25, 3)]
    for diagnosis in seen:
        assert sum(diagnosis.load) == pytest.approx(1)
        assert set(diagnosis.losses) == {"gam", "experts", "assignments"}
        assert 0 <= diagnosis.flip_rate <= 1
        assert 0.5 <= diagnosis.confidence <= 1
        assert 0 <= diagnosis.row_entropy <= 0.6932


def test_one_seed_gives_one_search() -> None:
    first, second = modules(), modules()
    for each in (first, second):
        search(each, SOFT, halves(), Budget(rounds=20), seed=3)
    assert torch.equal(first.assignments.all_rows(), second.assignments.all_rows())


def test_observing_changes_nothing() -> None:
    """Diagnoses draw no random numbers and leave every module in the mode it was in."""
    first, second = modules(), modules()
    search(first, SOFT, halves(), Budget(rounds=20), seed=3)
    search(second, SOFT, halves(), Budget(rounds=20), seed=3, observe=lambda d: None)
    assert torch.equal(first.gam.weight, second.gam.weight)
    assert first.gam.training


def test_the_control_leaves_the_assignments_as_they_are() -> None:
    each = modules()
    before = each.assignments.all_rows()
    seen: list[Diagnosis] = []
    budget = Budget(rounds=20)
    search(each, SOFT, halves(), budget, learned=False, seed=0, observe=seen.append)
    assert torch.equal(each.assignments.all_rows(), before)
    assert [d.flip_rate for d in seen] == [0.0, 0.0]


def test_clipped_entries_stay_in_their_range() -> None:
    each = modules(clipped=True)
    before = each.assignments.all_rows().clone()
    search(each, SOFT, halves(), Budget(rounds=30), seed=0)
    after = each.assignments.all_rows()
    assert not torch.equal(before, after)
    assert ((after >= 0) & (after <= 1)).all()


def test_early_stopping_goes_back_to_the_best_epoch() -> None:
    """With a learning rate that makes the validation loss rise, the search ends early."""
    settings = SearchSettings(
        routing=routing.SOFT, gam_learning_rate=3.0, experts_learning_rate=3.0
    )
    seen: list[Diagnosis] = []
    each = modules()
    budget = Budget(rounds=400, patience=3)
    search(each, settings, halves(), budget, seed=0, observe=seen.append)
    best = min(seen, key=lambda d: d.validation_loss)
    assert len(seen) < 40
    assert seen[-1].epoch - best.epoch == 3
    with torch.no_grad():
        inputs, targets = halves().validation.inputs, halves().validation.targets
        losses = routing.expected(each.gam(inputs), list(each.experts), inputs, targets)
    assert float(losses.mean()) == pytest.approx(best.validation_loss, rel=1e-6)


def test_hard_routing_with_more_groups_than_the_data_fill() -> None:
    """Empty groups in a batch harm nothing."""
    each = modules(num_groups=40)
    search(each, SearchSettings(routing=routing.HARD), halves(), Budget(rounds=5), seed=0)
    assert all(torch.isfinite(p).all() for p in each.experts.parameters())


@pytest.mark.parametrize("field", ["rounds", "batch_size", "patience"])
def test_an_impossible_budget_is_named(field: str) -> None:
    with pytest.raises(MloError, match=f"{field} must be >= 1, got 0"):
        Budget(**{field: 0})
