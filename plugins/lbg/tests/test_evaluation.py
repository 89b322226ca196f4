import pytest
import torch
from torch import Tensor, nn

from mlo_lbg.data.dataset import Examples
from mlo_lbg.evaluation import evaluate
from mlo_lbg.predictors import ByAttribute, OneNetwork, TopOne
from mlo_lbg.table import grouping_columns


class Column(nn.Module):
    """Logits for two classes from one column of the inputs."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def forward(self, inputs: Tensor) -> Tensor:
        chosen = inputs[:, self.column : self.column + 1]
        return torch.cat([-chosen, chosen], dim=1)


# Columns: the attribute, the class, its opposite; each as -1 or 1.
EXAMPLES = Examples(
    inputs=torch.tensor(
        [[-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]
    ).repeat(3, 1),
    targets=torch.tensor([0, 1, 0, 1]).repeat(3),
    attribute=torch.tensor([0, 0, 1, 1]).repeat(3),
    num_classes=2,
    num_attributes=2,
)


def test_groups_that_follow_the_attribute_are_recognised() -> None:
    found = evaluate(TopOne(gate=Column(0), experts=[Column(1), Column(2)]), EXAMPLES, num_groups=2)
    assert found.fairness.error == pytest.approx(0.5)
    assert found.fairness.group_errors == pytest.approx((0, 1))
    assert found.groups is not None
    assert found.groups.nmi_attribute == pytest.approx(1)
    assert found.groups.nmi_label == pytest.approx(0, abs=1e-9)
    assert found.groups.load == pytest.approx((0.5, 0.5))
    assert found.groups.by_attribute == ((6, 0), (0, 6))
    assert not found.told_attribute


def test_a_method_without_groups_has_none() -> None:
    found = evaluate(OneNetwork(network=Column(1)), EXAMPLES, num_groups=2)
    assert found.groups is None
    columns = found.columns()
    assert columns["error"] == 0
    assert columns["nmi_attribute"] is columns["largest_load"] is None


def test_the_largest_load_is_shown() -> None:
    uneven = EXAMPLES.subset(torch.tensor([0, 1, 4, 2]))
    found = evaluate(TopOne(gate=Column(0), experts=[Column(1), Column(2)]), uneven, num_groups=3)
    assert found.groups is not None
    assert found.groups.load == pytest.approx((0.75, 0.25, 0))
    assert found.columns()["largest_load"] == pytest.approx(0.75)


def test_the_ceiling_is_marked_as_told() -> None:
    # More attribute values than groups: its groups are the values.
    found = evaluate(ByAttribute(experts=[Column(1), Column(2)]), EXAMPLES, num_groups=1)
    assert found.told_attribute
    assert found.groups is not None
    assert found.groups.load == pytest.approx((0.5, 0.5))
    assert found.fairness.group_errors == pytest.approx((0, 1))


def test_every_column_of_the_table_but_time_is_measured() -> None:
    columns = evaluate(OneNetwork(network=Column(1)), EXAMPLES, num_groups=2).columns()
    assert {column.key for column in grouping_columns("sex")} - set(columns) == {"seconds"}
