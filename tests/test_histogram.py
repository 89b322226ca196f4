import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo import histogram
from mlo.errors import ProgramError
from mlo.histogram import BINS, counted

DOUBLES = st.lists(st.floats(), max_size=40).map(lambda x: torch.tensor(x, dtype=torch.double))
SINGLES = st.lists(st.floats(width=32), max_size=40).map(torch.tensor)
NARROW = st.lists(st.floats(1.0, 1.0 + 1e-6), max_size=40).map(torch.tensor)
WHOLE = st.lists(st.integers(-(2**40), 2**40), max_size=40).map(torch.tensor)


@given(DOUBLES | SINGLES | NARROW | WHOLE)
def test_every_finite_entry_lies_in_the_bin_that_counts_it(values):
    found = counted(values, "x")
    assert len(found.edges) == BINS + 1
    assert len(found.counts) == BINS
    assert all(math.isfinite(edge) for edge in found.edges)
    assert found.edges == sorted(found.edges)
    finite = [value for value in values.tolist() if math.isfinite(value)]
    assert found.not_finite == len(values) - len(finite)
    lower, upper = found.edges[0], found.edges[-1]
    for place, count in enumerate(found.counts):
        low, high = found.edges[place], found.edges[place + 1]
        last = place == BINS - 1
        assert count == sum(low <= v < high or (last and v == upper) for v in finite)
    if finite:
        assert lower <= min(finite) <= max(finite) <= upper
        if min(finite) < max(finite):
            assert (lower, upper) == (min(finite), max(finite))


@given(st.integers(1, 64))
def test_bins_are_equally_wide(scale):
    edges = torch.tensor(counted(torch.tensor([0.0, float(scale)]), "x").edges)
    torch.testing.assert_close(edges.diff(), torch.full((BINS,), scale / BINS))


def test_looking_at_chunks_changes_nothing(monkeypatch):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    values[7] = float("nan")
    whole = counted(values, "x")
    monkeypatch.setattr(histogram, "_CHUNK", 7)
    assert counted(values, "x") == whole


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.uint8, torch.int64, torch.bool],
)
def test_any_real_type_is_counted(dtype):
    found = counted(torch.tensor([0.0, 1.0, 1.0]).to(dtype), "x")
    assert (found.counts[0], found.counts[-1], found.not_finite) == (1, 2, 0)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_of_a_sparse_tensor_the_stored_entries_count():
    dense = torch.tensor([[0.0, 2.0], [1.0, 0.0]], requires_grad=True)
    for sparse in (dense.to_sparse(), dense.detach().to_sparse_csr()):
        found = counted(sparse, "x")
        assert sum(found.counts) == 2
        assert (found.edges[0], found.edges[-1]) == (1.0, 2.0)
    # Entries of the same place are one entry.
    twice = torch.sparse_coo_tensor(
        torch.zeros(1, 2, dtype=torch.long), torch.ones(2), (3,), check_invariants=True
    )
    assert counted(twice, "x").edges == counted(torch.tensor([2.0]), "x").edges


def test_nothing_and_nothing_finite():
    for values, lost in ((torch.zeros(0), 0), (torch.full((2, 2), float("inf")), 4)):
        found = counted(values, "x")
        assert (sum(found.counts), found.not_finite) == (0, lost)
        assert (found.edges[0], found.edges[-1]) == (-0.5, 0.5)


def test_what_has_no_order_is_refused():
    with pytest.raises(ProgramError, match=r"^histogram 'x': expected real numbers, got torch\.co"):
        counted(torch.zeros(2, dtype=torch.complex64), "x")


def test_a_tensor_that_is_spread_over_ranks_is_refused_on_all_of_them():
    class Spread(torch.Tensor):
        def full_tensor(self):
            return self

    with pytest.raises(ProgramError, match=r"^histogram 'x': .* full_tensor\(\) on every rank"):
        counted(torch.zeros(2).as_subclass(Spread), "x")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_counts_on_a_gpu_are_those_of_a_cpu():
    values = torch.randn(10_000)
    values[:3] = float("nan")
    assert counted(values.cuda(), "x") == counted(values, "x")
