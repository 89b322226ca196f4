from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mlo_lbg.architecture import perceptrons
from mlo_lbg.baselines.noisy_top_k import (
    TopK,
    importance,
    load,
    noisy_top_k,
    squared_variation,
    top_k_mixture,
)
from mlo_lbg.data.dataset import Examples
from mlo_lbg.models.size import ModelError, num_parameters
from mlo_lbg.training import Optimisation

ARCHITECTURE = perceptrons(inputs=6, classes=2, num_groups=4, hidden=(64,))


def crosses(count: int = 300, seed: int = 0) -> Examples:
    """Class 1 where two features have the same sign."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    return Examples(
        inputs=inputs, targets=targets, attribute=0 * targets, num_classes=2, num_attributes=1
    )


@given(seed=st.integers(0, 1000), num_groups=st.integers(2, 5))
def test_the_mixture_is_the_masked_softmax(seed: int, num_groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, inputs = (torch.randn(7, n, generator=generator) for n in (num_groups, 3))
    experts = [nn.Linear(3, 2) for _ in range(num_groups)]
    second = scores.topk(2, dim=-1).values[:, 1:]
    shares = scores.masked_fill(scores < second, -torch.inf).softmax(-1)
    outputs = torch.stack([expert(inputs) for expert in experts], dim=1)
    expected = (shares.unsqueeze(-1) * outputs).sum(1)
    assert torch.allclose(top_k_mixture(scores, experts, inputs, k=2), expected, atol=1e-5)
    assert torch.allclose(importance(scores, k=2), shares.sum(0), atol=1e-5)


def test_only_the_chosen_experts_run() -> None:
    rows: list[int] = []

    class Counting(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            rows.append(len(inputs))
            return inputs

    scores = torch.tensor([[3.0, 2.0, 0.0], [3.0, 2.0, 0.0], [3.0, 0.0, 2.0]])
    top_k_mixture(scores, [Counting() for _ in range(3)], torch.ones(3, 2), k=2)
    assert rows == [3, 2, 1]


def test_load_is_the_probability_that_new_noise_chooses_the_expert() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 4, generator=generator)
    scale = torch.rand(1, 4, generator=generator) + 0.5
    noisy = clean + scale * torch.randn(1, 4, generator=generator)
    found = load(clean, scale, noisy, k=2)
    draws = 40_000
    for expert in range(4):
        again = noisy.repeat(draws, 1)
        again[:, expert] = clean[0, expert] + scale[0, expert] * torch.randn(
            draws, generator=generator
        )
        chosen = (again.topk(2, dim=-1).indices == expert).any(-1).float().mean()
        assert abs(found[expert] - chosen) < 0.015


def test_every_network_gets_a_gradient() -> None:
    seen: dict[str, Tensor] = {}

    def gate() -> nn.Module:
        made = nn.Linear(6, 4)
        name = "noise" if "gate" in seen else "gate"
        seen[name] = torch.zeros(4, 6)
        made.weight.register_hook(lambda gradient: seen[name].add_(gradient.abs()))
        return made

    noisy_top_k(crosses(64), replace(ARCHITECTURE, make_gate=gate), Optimisation(epochs=1), seed=0)
    assert seen["gate"].max() > 0
    assert seen["noise"].max() > 0


def test_solves_what_no_linear_model_can_within_the_budget() -> None:
    trained = noisy_top_k(crosses(1000), ARCHITECTURE, Optimisation(epochs=20), seed=0)
    test = crosses(seed=1)
    assert (trained.predict(test.inputs) != test.targets).float().mean() < 0.15
    assert abs(trained.num_parameters - ARCHITECTURE.budget) <= 0.1 * ARCHITECTURE.budget
    assert torch.allclose(trained.probabilities(test.inputs).sum(-1), torch.ones(300))
    assert trained.groups(test.inputs).unique().numel() > 1


def test_prediction_has_no_noise_and_leaves_random_numbers_alone() -> None:
    trained = noisy_top_k(crosses(64), ARCHITECTURE, Optimisation(epochs=1), seed=0)
    inputs, before = crosses(64).inputs, torch.get_rng_state()
    assert trained.probabilities(inputs).equal(trained.probabilities(inputs))
    assert torch.get_rng_state().equal(before)
    assert not trained.gate.training
    assert num_parameters(trained.gate) == 28


def test_balance_evens_the_shares() -> None:
    def uneven() -> nn.Module:
        made = nn.Linear(6, 4)
        nn.init.zeros_(made.weight)
        nn.init.constant_(made.bias, 0.0)
        nn.init.constant_(made.bias[:2], 4.0)
        return made

    examples, architecture = crosses(), replace(ARCHITECTURE, make_gate=uneven)

    def variation(weight: float) -> float:
        trained = noisy_top_k(
            examples,
            architecture,
            Optimisation(epochs=20, learning_rate=0.03),
            importance_weight=weight,
            load_weight=weight,
            seed=0,
        )
        scores = trained.gate(examples.inputs)
        return squared_variation(importance(scores, k=2)).item()

    assert variation(0.0) > 0.5
    assert variation(10.0) < 0.25


@pytest.mark.parametrize("num_groups", [1, 2])
def test_with_two_experts_or_one_it_is_dense(num_groups: int) -> None:
    architecture = perceptrons(inputs=6, classes=2, num_groups=num_groups, hidden=(32,))
    trained = noisy_top_k(crosses(65), architecture, Optimisation(epochs=1), seed=0)
    assert isinstance(trained, TopK)
    assert trained.k == num_groups
    assert trained.predict(crosses(10).inputs).shape == (10,)


def test_single_rows_break_no_batch_normalisation() -> None:
    def expert() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    architecture = replace(ARCHITECTURE, make_expert=expert)
    settings = Optimisation(epochs=2, batch_size=4)
    trained = noisy_top_k(crosses(41), architecture, settings, seed=0)
    assert trained.probabilities(crosses(9).inputs).isfinite().all()


def test_errors_name_the_field() -> None:
    settings = Optimisation(epochs=1)
    with pytest.raises(ModelError, match=r"k: expected at least 2, .* got 1"):
        noisy_top_k(crosses(9), ARCHITECTURE, settings, k=1, seed=0)
    with pytest.raises(ModelError, match="load_weight: expected 0 or more, got -1"):
        noisy_top_k(crosses(9), ARCHITECTURE, settings, load_weight=-1, seed=0)
