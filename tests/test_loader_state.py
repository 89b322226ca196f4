import random
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset

from mlo.loader_state import (
    device_of_generators,
    differing,
    found_in,
    global_state,
    set_global,
    set_states,
    states_of,
)

CPU = torch.device("cpu")

GENERATORS = {
    "torch": (torch.Generator, lambda g: float(torch.rand((), generator=g))),
    "numpy": (lambda: np.random.default_rng(0), lambda g: g.random()),
    "numpy, Philox": (lambda: np.random.Generator(np.random.Philox(0)), lambda g: g.random()),
    "numpy, legacy": (lambda: np.random.RandomState(0), lambda g: g.randn()),
    "python": (lambda: random.Random(0), lambda g: g.gauss(0, 1)),
}


class Holder:
    def __init__(self, **parts):
        self.__dict__.update(parts)


@pytest.mark.parametrize(("make", "draw"), GENERATORS.values(), ids=GENERATORS)
def test_a_generator_is_set_back(make, draw):
    found = found_in(Holder(order=make()))
    generator = found["order"]
    draw(generator)  # a normal deviate may be left over now
    states = states_of(found)
    first = [draw(generator) for _ in range(3)]
    assert differing(states, states_of(found)) == {"order"}
    set_states(found, states)
    assert not differing(states, states_of(found))
    assert [draw(generator) for _ in range(3)] == first


def test_generators_are_found_wherever_a_loader_keeps_them():
    g = [torch.Generator() for _ in range(8)]
    closed_over = g[5]

    def collate(batch, own=g[4]):
        return batch, own, closed_over

    class Slotted:
        __slots__ = ("absent", "own")

        def __init__(self):
            self.own = g[6]

        def method(self):
            return self.own

    transforms = Holder(transforms=[Holder(name="flip"), Holder(drawn=g[0])])
    data = TensorDataset(torch.arange(3))
    data.transform = transforms
    data.by_name = {"crop": partial(max, g[1], key=g[2])}
    data.hook = Slotted().method
    loader = DataLoader(
        data, batch_sampler=[[0]], collate_fn=collate, generator=g[7], worker_init_fn=None
    )
    found = found_in(loader)
    assert {id(value) for value in found.values()} == {id(g[i]) for i in (0, 1, 2, 4, 5, 6, 7)}
    assert "dataset.transform.transforms.1.drawn" in found


def test_each_generator_is_found_once_and_circles_end():
    shared = torch.Generator()
    one, other = Holder(g=shared), Holder(g=shared)
    one.other, other.other = other, one
    assert list(found_in(one)) == ["g"]


def test_what_is_large_or_foreign_is_not_looked_through():
    class Explosive:
        @property
        def generator(self):
            raise AssertionError("a property was evaluated")

    class Lazy(dict):
        pass

    loader = Holder(
        rows=[torch.Generator() for _ in range(1000)],
        table=Lazy({i: torch.Generator() for i in range(1000)}),
        module=torch.nn.Dropout(),
        numpy=np,
        random=random,
        system=random.SystemRandom(),
        explosive=Explosive(),
    )
    loader.module.generator = torch.Generator()
    assert found_in(loader) == {}


def test_a_loader_whose_workers_run_has_the_same_generators():
    loader = DataLoader([1, 2], num_workers=1, persistent_workers=True)
    before = list(found_in(loader))
    next(iter(loader))
    assert list(found_in(loader)) == before == []


def test_samplers_and_data_that_count_epochs_are_found():
    sampler = DistributedSampler(range(4), num_replicas=2, rank=0)
    data = TensorDataset(torch.arange(4))
    data.epoch = 3
    found = found_in(DataLoader(data, sampler=sampler))
    assert states_of(found) == {"dataset": 3, "sampler": 0}
    set_states(found, {"dataset": 5, "sampler": 6, "gone": 7})
    assert (data.epoch, sampler.epoch) == (5, 6)


@pytest.mark.parametrize("epoch", [True, "3", None, 2.5])
def test_an_epoch_that_is_no_whole_number_is_none(epoch):
    data = TensorDataset(torch.arange(4))
    data.epoch = epoch
    assert found_in(data) == {}


def test_an_epoch_of_something_else_is_left_alone():
    assert found_in(Holder(trainer=Holder(epoch=3))) == {}


def test_the_global_generators_are_set_back():
    state = global_state(CPU)
    first = random.random(), np.random.rand(), torch.rand(1)
    assert differing(state, global_state(CPU)) == {"python", "numpy", "torch"}
    set_global(state, CPU)
    assert (random.random(), np.random.rand(), torch.rand(1)) == first


def test_a_state_of_another_kind_of_device_sets_the_cpu_alone():
    state = {**global_state(CPU), "device": torch.zeros(16), "device_type": "cuda"}
    first = torch.rand(1)
    set_global(state, CPU)
    assert torch.rand(1) == first


def test_a_device_without_a_generator_has_that_of_the_cpu():
    assert device_of_generators(torch.device("meta")) == CPU
    assert device_of_generators(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_states_differ_by_values_alone():
    sampler = RandomSampler(range(3), generator=torch.Generator())
    one, other = states_of(found_in(sampler)), states_of(found_in(sampler))
    assert one.keys() == {"generator"}
    assert not differing(one, other)
    assert differing({"a": {"x": 1}}, {"a": {"y": 1}}) == {"a"}
