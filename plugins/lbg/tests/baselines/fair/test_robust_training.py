"""Reweighted and robust training, on made data where it must show."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlo.record import Record
from mlo_lbg import trainer as trainers
from mlo_lbg.architecture import linear_experts
from mlo_lbg.baselines.fair.cells import cells
from mlo_lbg.baselines.fair.drawn import Drawn
from mlo_lbg.baselines.fair.group_dro import RobustNetwork, group_dro
from mlo_lbg.baselines.fair.jtt import error_weights, jtt
from mlo_lbg.baselines.fair.reweighting import balanced, reweighting
from mlo_lbg.baselines.fair.under_sampling import under_sampling
from mlo_lbg.baselines.single import single_network
from mlo_lbg.data.dataset import Examples
from mlo_lbg.fairness import fairness
from mlo_lbg.trainer import Trainer
from mlo_lbg.training import Optimisation

ARCHITECTURE = replace(
    linear_experts(inputs=30, classes=2, num_groups=2), make_network=lambda: nn.Linear(2, 2)
)
SHORT = Optimisation(epochs=2, learning_rate=0.05)
SLOW = Optimisation(epochs=30, learning_rate=0.03)


def shortcut(count: int = 600, seed: int = 0) -> Examples:
    """The first feature is the class, small; the second the attribute, which is the class in 90%.

    A linear model learns the second first, so the two rare cells get it wrong.
    """
    random = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, generator=random) < 0.4).long()
    same = (torch.rand(count, generator=random) < 0.9).long()
    attribute = torch.where(same == 1, targets, 1 - targets)
    noise = torch.randn(count, 2, generator=random) * torch.tensor([0.15, 0.3])
    inputs = torch.stack((0.3 * (2 * targets - 1), 2 * attribute - 1), -1) + noise
    return Examples(
        inputs=inputs, targets=targets, attribute=attribute, num_classes=2, num_attributes=2
    )


def worst_cell_loss(network: nn.Module, examples: Examples) -> float:
    with torch.no_grad():
        losses = cross_entropy(network(examples.inputs), examples.targets, reduction="none")
    found = cells(examples)
    return max(float(losses[found == cell].mean()) for cell in found.unique())


def odds_gap(predictions: Tensor, examples: Examples) -> float:
    return measured(predictions, examples).equalized_odds.mean


def measured(predictions: Tensor, examples: Examples) -> Any:
    return fairness(
        predictions, examples.targets, examples.attribute, num_classes=2, num_attributes=2
    )


def test_reweighting_and_under_sampling_and_dro_help_the_rare_cells() -> None:
    train, test = shortcut(), shortcut(4000, seed=1)
    plain = single_network(train, ARCHITECTURE, SLOW, seed=0)
    gap, worst = odds_gap(plain.predict(test.inputs), test), worst_cell_loss(plain.network, test)
    assert gap > 0.7
    for method in (under_sampling, reweighting, group_dro):
        fair = method(train, ARCHITECTURE, SLOW, seed=0)
        assert odds_gap(fair.predict(test.inputs), test) < gap / 8, method.__name__
        assert worst_cell_loss(fair.network, test) < 0.85 * worst, method.__name__


def test_group_dro_lowers_the_worst_cell_where_equal_cells_do_not() -> None:
    """One cell is much noisier: balancing does not help it, looking for the worst does."""
    data = shortcut(800)
    hard = (data.targets == 1) & (data.attribute == 1)
    random = torch.Generator().manual_seed(5)
    noise = torch.randn(len(data), 2, generator=random)
    data = replace(data, inputs=torch.where(hard[:, None], data.inputs + noise, data.inputs))
    longer = Optimisation(epochs=40, learning_rate=0.02)
    even = reweighting(data, ARCHITECTURE, longer, weighting=balanced, seed=0)
    robust = group_dro(data, ARCHITECTURE, longer, step=0.1, seed=0)
    assert worst_cell_loss(robust.network, data) < 0.75 * worst_cell_loss(even.network, data)


def test_cell_weights_follow_the_exponentiated_losses() -> None:
    robust = RobustNetwork(nn.Identity(), torch.tensor([4, 0, 9]), step=0.5, adjustment=6.0)
    assert robust.cell_weights.tolist() == [0.5, 0.0, 0.5]
    losses = torch.tensor([1.0, 3.0, 5.0], requires_grad=True)
    value = robust.robust_loss(losses, torch.tensor([0, 0, 2]))
    # Means 2 and 5, and 6 / √4 = 3 and 6 / √9 = 2 for small cells.
    q = torch.tensor([0.5 * (2 + 3), 0.5 * (5 + 2)]).softmax(0)
    assert robust.cell_weights[[0, 2]].allclose(q)
    assert value.item() == pytest.approx(float(2 * q[0] + 5 * q[1]))
    value.backward()
    assert losses.grad is not None
    assert losses.grad.allclose(torch.stack((q[0] / 2, q[0] / 2, q[1])))
    # A cell that the batch lacks gains nothing, adjustment included.
    robust.robust_loss(torch.tensor([2.0]), torch.tensor([0]))
    gained = torch.tensor([q[0].log() + 0.5 * 5, q[1].log()]).softmax(0)
    assert robust.cell_weights[[0, 2]].allclose(gained)


class StopError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("stop", [3, 11])
def test_group_dro_goes_on_from_a_checkpoint_with_its_cell_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    data, rounds = shortcut(200), 0
    settings = Optimisation(epochs=4, batch_size=64)
    straight = group_dro(data, ARCHITECTURE, settings, step=1.0, seed=0)
    real = trainers.mlo.Engine

    class Stopping(real):  # type: ignore[misc, valid-type]
        def rounds(self, *arguments: Any, **options: Any) -> Any:
            nonlocal rounds
            for done in super().rounds(*arguments, **options):
                rounds += 1
                if rounds == stop:
                    raise StopError
                yield done

    monkeypatch.setattr(trainers.mlo, "Engine", Stopping)
    record = Record.create(tmp_path / "run", console=Console(file=io.StringIO()))
    kept = Trainer(directory=record, parts=("dro",), checkpoint_every=2)
    with pytest.raises(StopError):
        group_dro(data, ARCHITECTURE, settings, step=1.0, seed=0, trainer=kept)
    resumed = group_dro(data, ARCHITECTURE, settings, step=1.0, seed=0, trainer=kept)
    record.close()
    # Had it begun anew, there would be more rounds.
    assert rounds <= 16 + 2
    for one, other in zip(straight.network.parameters(), resumed.network.parameters(), strict=True):
        assert one.equal(other)


def test_jtt_gives_the_weight_to_exactly_the_wrong_ones() -> None:
    data = shortcut()
    first = single_network(data, ARCHITECTURE, SHORT, seed=0)
    wrong = first.predict(data.inputs) != data.targets
    weights = error_weights(first, data, upweight=7.0)
    assert 0 < int(wrong.sum()) < len(data)
    assert weights[wrong].unique().tolist() == [7.0]
    assert weights[~wrong].unique().tolist() == [1.0]


def test_jtt_draws_by_the_weights_of_its_own_first_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Tensor] = []
    networks: list[nn.Module] = []

    class Watched(Drawn):
        def __init__(self, examples: Examples, weights: Tensor, **options: int) -> None:
            given.append(weights)
            super().__init__(examples, weights, **options)

    def make() -> nn.Module:
        networks.append(nn.Linear(2, 2))
        return networks[-1]

    monkeypatch.setattr("mlo_lbg.baselines.fair.jtt.Drawn", Watched)
    data = shortcut(200)
    trained = jtt(
        data,
        replace(ARCHITECTURE, make_network=make),
        SHORT,
        first_epochs=1,
        upweight=5.0,
        seed=0,
    )
    first, second = networks
    assert trained.network is second
    wrong = first(data.inputs).argmax(-1) != data.targets
    assert given[0].equal(torch.where(wrong, 5.0, 1.0).double())


def test_jtt_helps_the_rare_cells_without_the_attribute() -> None:
    train, test = shortcut(), shortcut(4000, seed=1)
    plain = single_network(train, ARCHITECTURE, SLOW, seed=0)
    twice = jtt(train, ARCHITECTURE, SLOW, first_epochs=5, upweight=6.0, seed=0)
    assert worst_cell_loss(twice.network, test) < 0.7 * worst_cell_loss(plain.network, test)
    unseen = replace(train, attribute=torch.zeros_like(train.attribute))
    blind = jtt(unseen, ARCHITECTURE, SLOW, first_epochs=5, upweight=6.0, seed=0)
    assert blind.predict(test.inputs).equal(twice.predict(test.inputs))
