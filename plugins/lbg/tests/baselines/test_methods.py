"""What holds for every baseline, and what each is for."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mlo_lbg.architecture import linear_experts
from mlo_lbg.baselines.bagging import bagging
from mlo_lbg.baselines.given_groups import NearestCentre, attribute_groups, kmeans_groups
from mlo_lbg.baselines.mixtures import soft_mixture, top_one_mixture
from mlo_lbg.baselines.single import single_network
from mlo_lbg.data.dataset import Examples
from mlo_lbg.evaluation import Trained, evaluate
from mlo_lbg.predictors import ByAttribute
from mlo_lbg.routing import mixture
from mlo_lbg.training import Optimisation

Method = Callable[..., Trained]

METHODS: dict[str, Method] = {
    "single": single_network,
    "bagging": bagging,
    "soft_mixture": soft_mixture,
    "top_one_mixture": top_one_mixture,
    "kmeans": kmeans_groups,
    "attribute": attribute_groups,
}
ARCHITECTURE = linear_experts(inputs=30, classes=2, num_groups=2)


def two_clusters(count: int = 400, seed: int = 0) -> Examples:
    """Two distant clusters, the attribute, in which one direction means opposite classes."""
    generator = torch.Generator().manual_seed(seed)
    attribute = (torch.rand(count, generator=generator) < 0.5).long()
    inputs = torch.randn(count, 30, generator=generator)
    targets = ((inputs[:, 0] > 0).long() + attribute) % 2
    inputs[:, 2:] *= 0.3
    inputs[:, 1] += 6 * (2 * attribute - 1)
    return Examples(
        inputs=inputs / 3, targets=targets, attribute=attribute, num_classes=2, num_attributes=2
    )


def predicted(trained: Trained, examples: Examples) -> Tensor:
    told = trained.told(examples.attribute) if isinstance(trained, ByAttribute) else trained
    return told.predict(examples.inputs)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_function_of_data_and_seed(name: str) -> None:
    examples, short = two_clusters(60), Optimisation(epochs=1, learning_rate=1e-3)
    inputs = examples.inputs.clone()
    before = torch.get_rng_state()

    def parameters(seed: int) -> list[Tensor]:
        trained = METHODS[name](examples, ARCHITECTURE, short, seed=seed)
        modules = [
            part
            for value in vars(trained).values()
            for part in (value if isinstance(value, list) else [value])
        ]
        assert not any(module.training for module in modules)
        return [parameter.detach() for part in modules for parameter in part.parameters()]

    first = parameters(0)
    assert torch.get_rng_state().equal(before)
    torch.rand(3)
    assert all(a.equal(b) for a, b in zip(first, parameters(0), strict=True))
    assert not all(a.equal(b) for a, b in zip(first, parameters(1), strict=True))
    assert examples.inputs.equal(inputs)


@pytest.mark.parametrize("name", METHODS)
def test_no_method_learns_from_the_attribute_but_the_ceiling(name: str) -> None:
    examples = two_clusters(60)
    swapped = Examples(
        inputs=examples.inputs,
        targets=examples.targets,
        attribute=torch.arange(60) % 2,
        num_classes=2,
        num_attributes=2,
    )
    trained = [
        METHODS[name](data, ARCHITECTURE, Optimisation(epochs=3), seed=0)
        for data in (examples, swapped)
    ]
    same = predicted(trained[0], examples).equal(predicted(trained[1], examples))
    assert same == (name != "attribute")


@pytest.mark.parametrize("name", ["soft_mixture", "kmeans", "attribute"])
def test_methods_with_groups_solve_what_one_linear_model_cannot(name: str) -> None:
    train, test = two_clusters(), two_clusters(seed=1)
    trained = METHODS[name](train, ARCHITECTURE, Optimisation(learning_rate=0.03), seed=0)
    found = evaluate(trained, test, num_groups=2)
    assert found.fairness.error < 0.1
    assert found.groups is not None
    assert found.groups.nmi_attribute > 0.8
    assert found.told_attribute == (name == "attribute")

    alone = replace(ARCHITECTURE, make_network=ARCHITECTURE.make_expert)
    linear = single_network(train, alone, Optimisation(learning_rate=0.03), seed=0)
    assert evaluate(linear, test, num_groups=1).fairness.error > 0.3


def test_sizes_are_within_a_tenth_of_the_budget() -> None:
    short = Optimisation(epochs=1)
    for name, method in METHODS.items():
        trained = method(two_clusters(40), ARCHITECTURE, short, seed=0)
        size = trained.num_parameters
        if name == "attribute":
            # Told the group, it needs no gate.
            assert size == 2 * (30 * 2 + 2)
        else:
            assert abs(size - ARCHITECTURE.budget) <= 0.1 * ARCHITECTURE.budget, name


def test_bagging_members_see_samples_drawn_with_replacement() -> None:
    seen: list[list[float]] = []

    class Recording(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            seen[-1].extend(inputs[:, 0].tolist())
            return super().forward(inputs)

    def make() -> nn.Module:
        seen.append([])
        return Recording(30, 2)

    recorded = replace(ARCHITECTURE, make_member=make)
    bagging(two_clusters(100), recorded, Optimisation(epochs=1), seed=0)
    assert [len(rows) for rows in seen] == [100, 100]
    first, second = (set(rows) for rows in seen)
    # On average 63 of 100 examples are drawn at least once.
    assert 45 < len(first) < 80
    assert 45 < len(second) < 80
    assert first != second


def test_the_objective_of_the_soft_mixture_is_used() -> None:
    examples, settings = two_clusters(60), Optimisation(epochs=3)
    shares = soft_mixture(examples, ARCHITECTURE, settings, seed=0)
    likelihood = soft_mixture(examples, ARCHITECTURE, settings, objective=mixture, seed=0)
    weights = [next(iter(found.gate.parameters())) for found in (shares, likelihood)]
    assert not weights[0].equal(weights[1])


def test_balance_evens_the_load_of_the_top_one_mixture() -> None:
    examples = two_clusters()

    def uneven_gate() -> nn.Module:
        gate = nn.Linear(30, 2)
        for parameter in gate.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(gate.bias[:1], 3.0)
        return gate

    uneven = replace(ARCHITECTURE, make_gate=uneven_gate)

    def share_of_second(balance: float) -> float:
        trained = top_one_mixture(
            examples, uneven, Optimisation(epochs=20), balance=balance, seed=0
        )
        return trained.groups(examples.inputs).float().mean().item()

    assert share_of_second(0.0) < 0.2
    assert 0.3 < share_of_second(10.0) < 0.7


def test_nearest_centre_is_the_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    centres, points = (
        torch.randn(4, 3, generator=generator),
        torch.randn(50, 3, generator=generator),
    )
    gate = NearestCentre(centres)
    assert gate(points).argmax(1).equal(torch.cdist(points, centres).argmin(1))
    assert not any(parameter.requires_grad for parameter in gate.parameters())
