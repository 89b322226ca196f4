"""The losses of Eq. 3 and Eq. 4."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlo_lbg import routing
from mlo_lbg.routing import TrainingLoss, ValidationLoss

TRAINING = [routing.confidence_weighted, routing.shared]
VALIDATION = [routing.confidence_scaled, routing.expected, routing.mixture]


class Counting(nn.Module):
    """Counts the rows that an expert is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.rows = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows += len(inputs)
        answer: Tensor = self.linear(inputs)
        return answer


def draw(num_groups: int, seed: int) -> tuple[Tensor, list[Counting], Tensor, Tensor]:
    torch.manual_seed(seed)
    experts = [Counting() for _ in range(num_groups)]
    return torch.randn(11, num_groups), experts, torch.randn(11, 3), torch.randint(4, (11,))


@pytest.mark.parametrize("loss", VALIDATION)
@given(num_groups=st.integers(1, 5), seed=st.integers(0, 1000))
def test_each_validation_loss_is_one_number_per_example(
    loss: ValidationLoss, num_groups: int, seed: int
) -> None:
    scores, experts, inputs, targets = draw(num_groups, seed)
    found = loss(scores, experts, inputs, targets)
    assert found.shape == (11,)
    assert (found >= 0).all()


@pytest.mark.parametrize("loss", VALIDATION)
def test_with_one_group_each_is_cross_entropy(loss: ValidationLoss) -> None:
    scores, experts, inputs, targets = draw(1, 0)
    expected = cross_entropy(experts[0].linear(inputs), targets, reduction="none")
    torch.testing.assert_close(loss(scores, experts, inputs, targets), expected)


@pytest.mark.parametrize("loss", TRAINING)
def test_with_one_group_training_is_cross_entropy(loss: TrainingLoss) -> None:
    scores, experts, inputs, targets = draw(1, 0)
    expected = cross_entropy(experts[0].linear(inputs), targets)
    torch.testing.assert_close(loss(scores, experts, inputs, targets).value, expected)


@given(num_groups=st.integers(1, 5), seed=st.integers(0, 1000))
def test_shared_charges_are_the_mean_of_the_expected_loss(num_groups: int, seed: int) -> None:
    drawn = draw(num_groups, seed)
    torch.testing.assert_close(routing.shared(*drawn).value, routing.expected(*drawn).mean())


@pytest.mark.parametrize("loss", [routing.confidence_weighted, routing.confidence_scaled])
def test_top_one_routing_runs_one_expert_on_each_example(
    loss: TrainingLoss | ValidationLoss,
) -> None:
    """O(N), whatever the number of groups."""
    scores, experts, inputs, targets = draw(4, 1)
    loss(scores, experts, inputs, targets)
    per_group = torch.bincount(scores.argmax(-1), minlength=4).tolist()
    assert [expert.rows for expert in experts] == per_group


@given(seed=st.integers(0, 1000))
def test_the_mixture_is_never_worse_than_its_expected_loss(seed: int) -> None:
    """Jensen: -log Σ f p <= -Σ f log p."""
    scores, experts, inputs, targets = draw(3, seed)
    lower = routing.mixture(scores, experts, inputs, targets)
    assert (lower <= routing.expected(scores, experts, inputs, targets) + 1e-6).all()


def test_confidence_learns_from_labels_only_when_it_multiplies_logits() -> None:
    """dl/dE is positive where the expert is wrong and negative where it is right."""
    scores = torch.tensor([[0.3, 0.0], [0.3, 0.0]], requires_grad=True)
    experts = [nn.Identity(), nn.Identity()]
    logits = torch.tensor([[2.0, -1.0, 0.0], [2.0, -1.0, 0.0]])
    loss = routing.confidence_scaled(scores, experts, logits, torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    right, wrong = gradient[:, 0].tolist()
    assert right < 0 < wrong


def test_dispatch_by_hand() -> None:
    """E times the cross-entropy of the chosen expert, and the cross-entropy of E times logits."""
    scores, experts, inputs, targets = draw(3, 2)
    f = scores.softmax(-1)
    parts = routing.confidence_weighted(scores, experts, inputs, targets)
    weighted = parts.weights * parts.losses
    scaled = routing.confidence_scaled(scores, experts, inputs, targets)
    for n in range(len(inputs)):
        k = int(f[n].argmax())
        logits = experts[k].linear(inputs[n])
        torch.testing.assert_close(weighted[n], f[n, k] * cross_entropy(logits, targets[n]))
        torch.testing.assert_close(scaled[n], cross_entropy(f[n, k] * logits, targets[n]))
