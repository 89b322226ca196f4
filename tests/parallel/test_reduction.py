import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo.parallel.bucket import spec_of
from tests.parallel.launching import on_ranks

DTYPES = (torch.float64, torch.float32, torch.complex128, torch.bfloat16)
ABSENT, DENSE, SPARSE = range(3)


def tensor_of(form, shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-8, 8, shape, generator=generator).to(dtype)
    if form == ABSENT:
        return None
    if form == DENSE:
        return values
    indices = torch.randint(0, shape[0], (1, 3), generator=generator)
    return torch.sparse_coo_tensor(indices, values[:3], shape, check_invariants=False)


def lists(size, seed):
    """Return what each rank has of a list of tensors, in every form, and tensors like them."""
    generator = torch.Generator().manual_seed(seed)
    like = [torch.empty(4, 2, dtype=DTYPES[i % len(DTYPES)]) for i in range(8)]
    forms = torch.randint(0, 3, (size, len(like)), generator=generator)
    return [
        [
            tensor_of(form, t.shape, t.dtype, seed * 1000 + rank * 100 + i)
            for i, (form, t) in enumerate(zip(row, like, strict=True))
        ]
        for rank, row in enumerate(forms.tolist())
    ], like


def expected_mean(column):
    """Return the mean of what ranks have, in the form that autograd would give it."""
    present = [t for t in column if t is not None]
    if not present:
        return None
    total = sum((t.to_dense() for t in present[1:]), present[0].to_dense())
    mean = total / len(column)
    return mean.to_sparse() if all(t.is_sparse for t in present) else mean


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.is_sparse == other.is_sparse
            assert one.dtype == other.dtype
            # Thirds in half precision, which are added up with either sign.
            half = {"rtol": 0, "atol": 0.1} if one.dtype == torch.bfloat16 else {}
            torch.testing.assert_close(one.to_dense(), other.to_dense(), **half)


def means_of_many_lists(ranks, seeds):
    found = []
    for seed in seeds:
        given_to, like = lists(ranks.size, seed)
        mine = given_to[ranks.rank]
        kept = [None if t is None else t.clone() for t in mine]
        found.append((ranks.mean(mine, like=like), ranks.mean(mine)))
        assert_same(mine, kept)
    return found


def test_means_are_those_of_the_whole_list_in_whatever_form_ranks_have_them():
    seeds = range(6)
    answers = on_ranks(means_of_many_lists, 3, seeds)
    for seed, *found in zip(seeds, *answers, strict=True):
        given_to, _ = lists(3, seed)
        expected = [expected_mean(column) for column in zip(*given_to, strict=True)]
        for with_like, without in found:
            assert_same(with_like, expected)
            assert_same(without, expected)


def counts(ranks):
    like = [torch.ones(5), torch.ones(3, 2), torch.ones(4, dtype=torch.float64)]
    mine = [like[0], None if ranks.rank == 1 else like[1], like[2]]
    traffic = []
    for _ in range(3):
        before = ranks.traffic
        ranks.mean(mine, like=like)
        traffic.append(ranks.traffic.since(before).kinds)
    assert ranks.mean([]) == []
    assert ranks.traffic.since(before).total.count == 2
    return traffic


def test_one_reduction_for_each_dtype_once_it_is_known_what_is_dense():
    for first, second, third in on_ranks(counts, 2):
        assert first["means"].count == 4
        # Two flags stand behind the entries of each tensor.
        flags = 4 * 2 * 2 + 8 * 2
        expected = (2, 4 * (5 + 6) + 8 * 4 + flags)
        assert (second["means"].count, second["means"].bytes) == expected
        assert second == third


def of_large_tables(ranks):
    rows = 10**12
    indices = torch.tensor([[0, rows - 1, 7 + ranks.rank]])
    values = torch.ones(3, 2, dtype=torch.float64)
    table = torch.sparse_coo_tensor(indices, values, (rows, 2), check_invariants=False)
    # Nothing of the whole size could be made.
    (mean,) = ranks.mean([table], like=[torch.empty((), dtype=torch.float64).expand(rows, 2)])
    (again,) = ranks.mean([table if ranks.rank else None])
    return mean, again


def test_a_sparse_tensor_never_becomes_dense():
    for mean, again in on_ranks(of_large_tables, 2):
        assert mean.is_coalesced()
        assert mean.indices().tolist() == [[0, 7, 8, 10**12 - 1]]
        assert mean.values()[:, 0].tolist() == [1.0, 0.5, 0.5, 1.0]
        assert again.indices().tolist() == [[0, 8, 10**12 - 1]]
        assert again.values()[:, 0].tolist() == [0.5, 0.5, 0.5]


def of_images(ranks):
    image = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    mine = image.contiguous() if ranks.rank else image
    means = [ranks.mean([mine], like=[image])[0] for _ in range(2)]
    return [(mean, mean.stride()) for mean in means]


def test_means_have_the_strides_of_what_they_are_like():
    image = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    for found in on_ranks(of_images, 2):
        for mean, stride in found:
            torch.testing.assert_close(mean, image, rtol=0, atol=0)
            assert stride == image.stride()


def of_large_halves(ranks):
    large = torch.full((2,), 60000.0, dtype=torch.float16)
    return [mean.to_dense().tolist() for mean in ranks.mean([large, large.to_sparse()])]


def test_sums_of_halves_do_not_overflow():
    assert on_ranks(of_large_halves, 2) == [[[60000.0, 60000.0]] * 2] * 2


@given(st.lists(st.integers(1, 4), max_size=4), st.permutations(range(4)))
def test_the_strides_of_a_spec_fill_the_memory(shape, order):
    axes = [axis for axis in order if axis < len(shape)]
    tensor = torch.empty([shape[axis] for axis in axes]).permute(
        [axes.index(axis) for axis in range(len(shape))]
    )
    spec = spec_of(tensor)
    assert spec.stride == tensor.stride()
    flat = torch.arange(tensor.numel())
    assert sorted(flat.as_strided(spec.shape, spec.stride).reshape(-1).tolist()) == flat.tolist()


def test_a_tensor_with_holes_is_laid_out_without():
    assert spec_of(torch.empty(4, 6)[:, ::2]).stride == (3, 1)
    assert spec_of(torch.empty(1).expand(5)).stride == (1,)
