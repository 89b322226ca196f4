"""The state of one module: everything in it that training may change."""

import copy
import re

import pytest
import torch
from torch import nn

from mlo import CheckpointError
from mlo.engine_state import check_module, load_module, module_state
from tests.stateful_programs import reweighting, run, same_tree


class Odd(nn.Module):
    """Tied parameters, a buffer that is not saved by torch, and one that is not there."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.other = nn.Linear(2, 2)
        self.other.weight = self.one.weight
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("fleeting", torch.zeros(2), persistent=False)
        self.register_buffer("missing", None)


def test_a_module_of_every_kind_goes_back():
    module, twin = Odd(), Odd()
    module.one.bias.requires_grad_(False)
    module.norm.eval()
    module.fleeting.fill_(3.0)
    state = copy.deepcopy(module_state(module))
    assert sorted(state["parameters"]) == [
        "norm.bias",
        "norm.weight",
        "one.bias",
        "one.weight",
        "other.bias",
    ]
    check_module("odd", twin, state)
    load_module(twin, state)
    assert same_tree(module_state(twin), module_state(module))
    assert twin.other.weight is twin.one.weight
    assert not twin.one.bias.requires_grad
    assert (twin.norm.training, twin.one.training) == (False, True)
    assert twin.fleeting.tolist() == [3.0, 3.0]


def test_a_state_is_not_copied_when_it_is_taken():
    module = nn.Linear(2, 2)
    assert module_state(module)["parameters"]["weight"].data_ptr() == module.weight.data_ptr()


def test_a_buffer_of_another_shape():
    state = module_state(nn.BatchNorm1d(3, affine=False))
    message = re.escape(
        "problem 'x': buffer 'running_mean' is torch.float32 of shape (3,) in the checkpoint, "
        "expected torch.float32 of shape (2,) as in the program"
    )
    with pytest.raises(CheckpointError, match=message):
        check_module("x", nn.BatchNorm1d(2, affine=False), state)


class Remembering(nn.Module):
    """Keeps a number beside its tensors, in the way that torch has for it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, inputs):
        self.count += 1
        return inputs * (1 + 0.1 * self.count)

    def get_extra_state(self):
        return {"count": self.count}

    def set_extra_state(self, state):
        self.count = state["count"]


def test_what_a_module_keeps_beside_its_tensors():
    module, twin = nn.Sequential(Remembering()), nn.Sequential(Remembering())
    module[0].count = 7
    state = copy.deepcopy(module_state(module))
    load_module(twin, state)
    assert twin[0].count == 7
    load_module(twin[0], copy.deepcopy(module_state(Remembering())))
    assert twin[0].count == 0


def test_it_goes_back_with_everything_if_something_does_not_fit():
    make = reweighting(layers=lambda: [Remembering()])
    engine, other = make(0), make(1)
    run(engine, 2)
    run(other, 5)
    state = copy.deepcopy(engine.state_dict())
    state["random"][0]["torch"] = torch.zeros(3, dtype=torch.uint8)
    module = other.graph.problem("model").module[1]
    count = module.count
    with pytest.raises(CheckpointError):
        other.load_state_dict(state)
    assert module.count == count
    other.load_state_dict(engine.state_dict())
    assert module.count == engine.graph.problem("model").module[1].count != count
