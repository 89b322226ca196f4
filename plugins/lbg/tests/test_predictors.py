import pytest
import torch
from torch import Tensor, nn

from mlo_lbg import by_part
from mlo_lbg.predictors import (
    ByAttribute,
    Ensemble,
    OneNetwork,
    Predictor,
    PredictorError,
    SoftMixture,
    TopOne,
)


class Fixed(nn.Module):
    """The same logits for every input."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits.expand(len(inputs), -1)


class Sign(nn.Module):
    """Scores that choose group 1 for positive inputs."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([-inputs, inputs], dim=1)


POINTS = torch.tensor([[-2.0], [1.0], [3.0]])


def test_one_network_and_its_lack_of_groups() -> None:
    predictor = OneNetwork(network=Fixed(0.0, 2.0, 1.0))
    assert predictor.predict(POINTS).tolist() == [1, 1, 1]
    assert predictor.groups(POINTS) is None
    assert predictor.num_parameters == 3


def test_an_ensemble_averages_probabilities_not_logits() -> None:
    # Logits would sum to a tie-breaking 4 for class 0; probabilities favour class 1.
    members = [Fixed(10.0, 0.0), Fixed(-3.0, 0.0), Fixed(-3.0, 0.0)]
    predictor = Ensemble(members=members)
    assert predictor.predict(POINTS).tolist() == [1, 1, 1]
    assert predictor.num_parameters == 6


def test_a_soft_mixture_weighs_experts_by_the_gate() -> None:
    experts = [Fixed(1.0, 0.0), Fixed(0.0, 1.0)]
    predictor = SoftMixture(gate=Sign(), experts=experts)
    assert predictor.predict(POINTS).tolist() == [0, 1, 1]
    assert predictor.groups(POINTS).tolist() == [0, 1, 1]
    # A certain minority expert outweighs an uncertain one that the gate prefers.
    split = SoftMixture(gate=Fixed(0.5, 0.0), experts=[Fixed(0.1, 0.0), Fixed(0.0, 9.0)])
    assert split.predict(POINTS).tolist() == [1, 1, 1]
    assert split.groups(POINTS).tolist() == [0, 0, 0]
    assert split.num_parameters == 6


def test_top_one_asks_one_expert_only() -> None:
    predictor = TopOne(gate=Fixed(0.5, 0.0), experts=[Fixed(0.1, 0.0), Fixed(0.0, 9.0)])
    assert predictor.predict(POINTS).tolist() == [0, 0, 0]
    routed = TopOne(gate=Sign(), experts=[Fixed(1.0, 0.0), Fixed(0.0, 1.0)])
    assert routed.predict(POINTS).tolist() == [0, 1, 1]
    assert routed.groups(POINTS).tolist() == [0, 1, 1]


def test_experts_by_attribute_use_what_they_are_told() -> None:
    experts = ByAttribute(experts=[Fixed(1.0, 0.0), Fixed(0.0, 1.0)])
    told = experts.told(torch.tensor([1, 0, 1]))
    assert told.predict(POINTS).tolist() == [1, 0, 1]
    found = told.groups(POINTS)
    assert found is not None
    assert found.tolist() == [1, 0, 1]
    assert told.num_parameters == experts.num_parameters == 4
    with pytest.raises(PredictorError, match="expected the 3 examples whose attribute was told"):
        told.predict(POINTS[:2])


@pytest.mark.parametrize(
    "predictor",
    [
        OneNetwork(network=nn.Linear(1, 3)),
        Ensemble(members=[nn.Linear(1, 3), nn.Linear(1, 3)]),
        SoftMixture(gate=Sign(), experts=[nn.Linear(1, 3), nn.Linear(1, 3)]),
        TopOne(gate=Sign(), experts=[nn.Linear(1, 3), nn.Linear(1, 3)]),
    ],
    ids=lambda predictor: type(predictor).__name__,
)
def test_parts_give_what_the_whole_gives_without_a_graph(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = torch.linspace(-1, 1, 11).unsqueeze(1)
    whole = predictor.predict(inputs)
    monkeypatch.setattr(by_part, "_ROWS_AT_ONCE", 4)
    assert predictor.predict(inputs).equal(whole)
    assert whole.shape == (11,)
    assert whole.dtype == torch.int64
    assert not whole.requires_grad
