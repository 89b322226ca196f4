import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from mlo_lbg.classifier import train_classifier
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples
from mlo_lbg.training import Optimisation, TrainingError, fit


def points(count: int) -> Examples:
    inputs = torch.linspace(-1, 1, count).unsqueeze(1)
    return Examples(
        inputs=inputs,
        targets=(inputs.squeeze(1) > 0).long(),
        attribute=torch.zeros(count, dtype=torch.int64),
        num_classes=2,
        num_attributes=1,
    )


def test_fit_is_adamw_with_cosine_decay() -> None:
    """Against the update rule written out, for one parameter and a loss of slope 1 everywhere."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 2.0)
    optimisation = Optimisation(learning_rate=0.1, weight_decay=0.5, epochs=4)
    batch = (torch.tensor([0]), torch.ones(1, 1), torch.ones(1, 1))
    fit(module, lambda index, inputs, targets: module(inputs).sum(), [batch], optimisation)

    expected = 2.0
    for step in range(4):
        rate = 0.05 * (1 + torch.cos(torch.tensor(step * torch.pi / 4)).item())
        # Adam's bias-corrected update of a constant gradient is its sign.
        expected = expected * (1 - rate * 0.5) - rate
    assert module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_fit_passes_row_numbers_and_ends_in_evaluation_mode() -> None:
    examples = points(10)
    module = nn.Linear(1, 1)
    seen: list[int] = []

    def loss(index: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        assert module.training
        assert inputs.equal(examples.inputs[index])
        seen.extend(index.tolist())
        return mse_loss(module(inputs).squeeze(1), targets.float())

    fit(module, loss, Batches(examples, size=4, seed=0), Optimisation(epochs=3))
    assert sorted(seen) == sorted(list(range(10)) * 3)
    assert not module.training


def test_a_leftover_example_does_not_break_batch_norm() -> None:
    train_classifier(
        points(9),
        lambda: nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        Optimisation(epochs=2, batch_size=4),
        seed=0,
    )


def test_divergence_is_reported_with_its_epoch_and_learning_rate() -> None:
    module = nn.Linear(1, 1)
    batch = (torch.tensor([0]), torch.full((1, 1), torch.inf), torch.ones(1, 1))
    with pytest.raises(TrainingError, match=r"in epoch 1 with learning_rate 0.3"):
        fit(
            module,
            lambda index, inputs, targets: module(inputs).square().sum(),
            [batch],
            Optimisation(learning_rate=0.3, epochs=5),
        )


def test_a_classifier_learns_and_is_a_function_of_its_seed() -> None:
    examples = points(40)

    def trained(seed: int) -> Tensor:
        network = train_classifier(
            examples,
            lambda: nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Linear(8, 2)),
            Optimisation(epochs=30),
            seed=seed,
        )
        output: Tensor = network(examples.inputs)
        return output.detach()

    before = torch.get_rng_state()
    first = trained(0)
    assert torch.get_rng_state().equal(before)
    torch.rand(5)
    assert trained(0).equal(first)
    assert not trained(1).equal(first)
    assert (first.argmax(1) == examples.targets).float().mean() > 0.9


def test_without_examples_the_initial_network_comes_back_in_evaluation_mode() -> None:
    network = train_classifier(
        points(4).subset(torch.tensor([], dtype=torch.int64)),
        lambda: nn.Linear(1, 2),
        Optimisation(),
        seed=0,
    )
    assert not network.training


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a positive number, got nan"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more, got -1.0"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Optimisation(**setting)  # type: ignore[arg-type]  # one field of several types at a time
