import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo_lbg import diagnostics
from mlo_lbg.diagnostics import DiagnosticsError

GROUPINGS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=50)


@given(rows=GROUPINGS)
def test_loads_and_contingency_count_examples(rows: list[tuple[int, int]]) -> None:
    groups, codes = torch.tensor(rows).T
    table = diagnostics.contingency(groups, codes, 4, 3)
    load = diagnostics.load(groups, 4)
    assert table.tolist() == [[rows.count((k, c)) for c in range(3)] for k in range(4)]
    torch.testing.assert_close(load, table.sum(1) / len(rows))
    assert load.sum().item() == pytest.approx(1)


@given(rows=GROUPINGS)
def test_nmi_equals_its_formula_and_ignores_group_numbers(rows: list[tuple[int, int]]) -> None:
    groups, codes = torch.tensor(rows).T
    joint = diagnostics.contingency(groups, codes, 4, 3).double() / len(rows)

    def entropy(shares: torch.Tensor) -> float:
        return -sum(share * math.log(share) for share in shares.flatten().tolist() if share)

    h_groups, h_codes = entropy(joint.sum(1)), entropy(joint.sum(0))
    information = h_groups + h_codes - entropy(joint)
    if h_groups + h_codes:
        expected = information / ((h_groups + h_codes) / 2)
        assert diagnostics.nmi(groups, codes) == pytest.approx(expected, abs=1e-9)
    assert diagnostics.nmi(3 - groups, codes) == pytest.approx(diagnostics.nmi(groups, codes))


@given(seed=st.integers(0, 2**32), groups=st.integers(1, 6))
def test_entropies_lie_between_zero_and_log_k(seed: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = (3 * torch.randn(8, groups, generator=generator, dtype=torch.float64)).softmax(1)
    mean, of_mean = diagnostics.mean_entropy(rows), diagnostics.entropy_of_mean(rows)
    assert -1e-12 <= mean <= of_mean + 1e-12 <= math.log(groups) + 2e-12
    torch.testing.assert_close(mean, -(rows * rows.log()).sum(1).mean())
    assert 1 / groups - 1e-12 <= diagnostics.mean_confidence(rows) <= 1


def test_certain_rows_have_no_entropy_and_uniform_rows_log_k() -> None:
    assert diagnostics.mean_entropy(torch.eye(4)).item() == 0
    assert diagnostics.entropy_of_mean(torch.eye(4)).item() == pytest.approx(math.log(4))
    assert diagnostics.mean_entropy(torch.full((3, 4), 0.25)).item() == pytest.approx(math.log(4))


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_flips_and_agreements_share_the_examples(rows: list[tuple[int, int]]) -> None:
    before, after = torch.tensor(rows).T
    flips = sum(a != b for a, b in rows) / len(rows)
    assert diagnostics.flip_rate(before, after).item() == pytest.approx(flips, abs=1e-6)
    assert diagnostics.agreement(before, after).item() == pytest.approx(1 - flips, abs=1e-6)


def test_collapse_is_below_a_tenth_of_an_equal_share() -> None:
    assert diagnostics.collapsed(torch.tensor([0.05, 0.95], dtype=torch.float64)) == []
    assert diagnostics.collapsed(torch.tensor([0.049, 0.951])) == [0]
    assert diagnostics.collapsed(torch.tensor([0.0, 0.5, 0.5, 0.0])) == [0, 3]
    assert diagnostics.collapsed(torch.tensor([1.0])) == []


def test_the_warning_names_groups_shares_and_remedies() -> None:
    one = diagnostics.collapse_warning(torch.tensor([0.99, 0.01]))
    assert one is not None
    assert "group 1 has 1.0% of the examples (below 5.0%" in one
    two = diagnostics.collapse_warning(torch.tensor([0.0, 0.98, 0.02, 0.0]))
    assert two is not None
    assert "groups 0 (0.0%), 2 (2.0%), 3 (0.0%) have too few of the examples (below 2.5%" in two
    for remedy in ("routing: soft", "gam_learning_rate", "fewer groups than num_groups: 4"):
        assert remedy in two
    assert diagnostics.collapse_warning(torch.tensor([0.3, 0.7])) is None


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(DiagnosticsError, match="groups: expected at least one example"):
        diagnostics.load(torch.tensor([], dtype=torch.int64), 2)
    with pytest.raises(DiagnosticsError, match=r"second: expected shape \(2,\)"):
        diagnostics.agreement(torch.tensor([0, 1]), torch.tensor([0]))
