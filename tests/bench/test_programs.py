"""The timed programs have the sizes that tables give them, and both variants see one data set."""

import pytest
import torch

from mlo.bench.programs import PROGRAMS, RATE, WIDTHS, Shape, network

CPU = torch.device("cpu")
SIZES = {"1k": 1_090, "94k": 94_104, "1M": 979_810, "10M": 9_799_850}


def test_every_size_is_what_its_name_says():
    with torch.device("meta"):
        found = {k: sum(p.numel() for p in network(w).parameters()) for k, w in WIDTHS.items()}
    assert found == SIZES


@pytest.mark.parametrize("build", PROGRAMS.values(), ids=PROGRAMS)
def test_a_seed_decides_everything_and_leaves_the_generator(build):
    before = torch.get_rng_state()
    first, second = (build(Shape(size="1k", device=CPU, seed=3)) for _ in range(2))
    other = build(Shape(size="1k", device=CPU, seed=4))
    assert torch.equal(before, torch.get_rng_state())
    for name in ("model", "upper"):
        states = [getattr(parts, name).state_dict() for parts in (first, second)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert torch.equal(first.train[0][0], second.train[0][0])
    assert not torch.equal(first.train[0][0], other.train[0][0])


@pytest.mark.parametrize("build", PROGRAMS.values(), ids=PROGRAMS)
def test_both_precisions_see_one_problem(build):
    single = build(Shape(size="1k", device=CPU))
    double = build(Shape(size="1k", device=CPU, dtype=torch.float64))
    assert torch.equal(single.train[0][1], double.train[0][1])
    batches = single.valid[0], double.valid[0]
    losses = single.validate(batches[0]).detach(), double.validate(batches[1]).detach()
    assert losses[1].dtype == torch.float64
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)


def test_scaling_by_the_rate_rounds_nothing():
    assert torch.tensor(RATE).frexp().mantissa == 0.5
