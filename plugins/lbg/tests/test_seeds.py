import torch
from hypothesis import given
from hypothesis import strategies as st

from mlo_lbg.seeds import seeded, spawn


@given(seed=st.integers(0, 2**63), count=st.integers(0, 20))
def test_spawned_seeds_follow_the_seed_and_differ(seed: int, count: int) -> None:
    seeds = spawn(seed, count)
    assert seeds == spawn(seed, count)
    assert spawn(seed, count + 1)[:count] == seeds
    assert len({seed, *seeds}) == count + 1


def test_the_global_state_is_as_before_even_after_an_error() -> None:
    before = torch.get_rng_state()
    try:
        with seeded(7):
            inside = torch.rand(3)
            raise RuntimeError
    except RuntimeError:
        pass
    assert torch.get_rng_state().equal(before)
    with seeded(7):
        assert torch.rand(3).equal(inside)
