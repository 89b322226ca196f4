"""Which rows and weights the cells of class and attribute get, exactly."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mlo_lbg.architecture import linear_experts
from mlo_lbg.baselines.fair.cells import cell_sizes, cells
from mlo_lbg.baselines.fair.drawn import Drawn
from mlo_lbg.baselines.fair.reweighting import balanced, independent
from mlo_lbg.baselines.fair.under_sampling import equal_cells, under_sampling
from mlo_lbg.baselines.fair.weighted import train_weighted
from mlo_lbg.classifier import train_classifier
from mlo_lbg.data.dataset import Examples
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


@st.composite
def tables(draw: st.DrawFn) -> Examples:
    classes, values = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rows = st.tuples(st.integers(0, classes - 1), st.integers(0, values - 1))
    pairs = torch.tensor(draw(st.lists(rows, min_size=1, max_size=40)))
    return Examples(
        inputs=torch.arange(float(len(pairs)))[:, None],
        targets=pairs[:, 0],
        attribute=pairs[:, 1],
        num_classes=classes,
        num_attributes=values,
    )


@given(tables(), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_under_sampling_leaves_the_smallest_size_of_every_cell(data: Examples, seed: int) -> None:
    rows = equal_cells(data, seed=seed)
    sizes = cell_sizes(data)
    assert len(rows.unique()) == len(rows)
    assert cell_sizes(data.subset(rows)).equal((sizes > 0) * sizes[sizes > 0].min())


def test_under_sampling_draws_by_seed_and_trains_on_nothing_else() -> None:
    data = shortcut(200)
    assert equal_cells(data, seed=0).equal(equal_cells(data, seed=0))
    assert not equal_cells(data, seed=0).equal(equal_cells(data, seed=1))
    seen: list[Tensor] = []

    class Recording(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs)
            return super().forward(inputs)

    recorded = replace(ARCHITECTURE, make_network=lambda: Recording(2, 2))
    under_sampling(data, recorded, Optimisation(epochs=1), seed=0)
    rows = torch.cat(seen)
    used = (data.inputs[:, None] == rows).all(-1).any(-1)
    assert len(rows) == int(used.sum()) == 4 * int(cell_sizes(data).min())
    assert (cell_sizes(data.subset(used)) == cell_sizes(data).min()).all()


@given(tables())
@settings(max_examples=40, deadline=None)
def test_under_independent_weights_class_and_attribute_are_independent(data: Examples) -> None:
    sizes, weights = cell_sizes(data), independent(data)
    mass = torch.zeros(sizes.numel(), dtype=torch.float64)
    mass.index_add_(0, cells(data), weights)
    share = sizes.double() / len(data)
    product = share.sum(1, keepdim=True) * share.sum(0)
    assert torch.allclose(mass.reshape(sizes.shape) / len(data), product * (sizes > 0))


@given(tables())
@settings(max_examples=40, deadline=None)
def test_under_balanced_weights_all_cells_weigh_the_same(data: Examples) -> None:
    mass = torch.zeros(cell_sizes(data).numel(), dtype=torch.float64)
    mass.index_add_(0, cells(data), balanced(data))
    filled = mass[cell_sizes(data).flatten() > 0]
    assert torch.allclose(filled, torch.full_like(filled, len(data) / len(filled)))


def test_rows_are_drawn_as_often_as_their_weights_say() -> None:
    data = shortcut(100)
    weights = torch.ones(100)
    weights[:10], weights[10:20] = 9.0, 0.0
    drawn = Drawn(data, weights, size=32, seed=0)
    batches = [batch for _ in range(40) for batch in drawn]
    assert len(batches) == 40 * len(drawn)
    index = torch.cat([rows for rows, _, _ in batches])
    counts = torch.bincount(index, minlength=100)
    assert len(index) == 4000
    assert not counts[10:20].any()
    # 90 of 170 parts.
    assert abs(float(counts[:10].sum()) / 4000 - 90 / 170) < 0.04
    for rows, inputs, targets in batches[:3]:
        assert inputs.equal(data.inputs[rows])
        assert targets.equal(data.targets[rows])


def test_drawn_rows_are_augmented() -> None:
    data = replace(shortcut(8), augment=lambda inputs, _random: inputs + 100)
    _, inputs, _ = next(iter(Drawn(data, torch.ones(8), size=8, seed=0)))
    assert (inputs > 50).all()


def test_equal_weights_are_plain_training_bit_for_bit() -> None:
    data = shortcut(100)
    plain = train_classifier(data, ARCHITECTURE.make_network, SHORT, seed=3)
    weighted = train_weighted(data, torch.ones(100), ARCHITECTURE.make_network, SHORT, seed=3)
    for one, other in zip(plain.parameters(), weighted.parameters(), strict=True):
        assert one.equal(other)


def test_weights_are_of_the_losses() -> None:
    data = shortcut(200)
    flipped = torch.arange(200) % 2 == 1
    data = replace(data, targets=torch.where(flipped, 1 - data.targets, data.targets))
    network = train_weighted(data, (~flipped).double(), ARCHITECTURE.make_network, SLOW, seed=0)
    right = network(data.inputs).argmax(-1) == data.targets
    assert right[~flipped].float().mean() > 0.9
    assert right[flipped].float().mean() < 0.1
