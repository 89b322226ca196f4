"""Trees of plain data go through JSON and tensors and come back exactly."""

import json
import random
from collections import Counter, OrderedDict
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from mlo.checkpoint.plain import encode
from tests.checkpoint.trees import DTYPES, dense, raw, same, through_json, trees


@examples(max_examples=250)
@given(trees)
def test_trees_come_back_exactly(tree):
    assert same(tree, through_json(tree))


@examples(max_examples=100)
@given(trees)
def test_what_is_stored_is_plain(tree):
    """Only dense tensors whose dtypes the file can name, and text that is ASCII."""
    structure, tensors = encode(tree)
    assert json.dumps(structure, allow_nan=False).isascii()
    for name, tensor in tensors.items():
        assert type(tensor) is torch.Tensor
        assert tensor.layout is torch.strided
        assert not tensor.requires_grad
        assert not name.startswith("__")
        assert name.isprintable()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_in_every_layout(dtype):
    content = torch.arange(16 * dtype.itemsize, dtype=torch.uint8) % (
        2 if dtype is torch.bool else 251
    )
    tensor = content.view(dtype)
    for each in (tensor, tensor[3], tensor[:0], tensor.reshape(4, 2, 2), tensor[2:9]):
        found = through_json([each])[0]
        assert found.dtype is dtype
        assert found.shape == each.shape
        assert raw(found) == raw(each)


@pytest.mark.parametrize(
    "value",
    [
        10**300,
        -(2**63),
        2**63,
        10**5000,
        float("nan"),
        float("inf"),
        float("-inf"),
        -0.0,
        5e-324,
        0.1,
        "\ud800 \u2028\0\n",
        b"\0\xff",
        {1: "a", "1": "b", (1, "x"): None, None: 0, 2.5: 1, b"k": 2, -1: 3},
        {True: 1, 2: 3},
        (1, [2, (3,)], {4: (5,)}),
        [],
        (),
        {},
        set(),
        {1, "a"},
        OrderedDict(b=1, a=2),
        Counter([3, 3, 5]),
        np.float32(0.1),
        np.bool_(True),
        np.array(5),
        np.array([1, 2], dtype=">i4"),
        np.arange(12).reshape(3, 4).T,
        np.zeros((0, 3)),
        np.longdouble("0.1"),
        torch.float64,
        torch.device("cuda:3"),
        torch.Size([2, 0]),
        torch.tensor(float("nan")),
        torch.tensor([1 + 2j], dtype=torch.complex128).conj(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_comes_back_exactly(value):
    assert same(value, through_json(value))
    assert same([value], through_json([value]))


def test_generators_of_random_numbers_go_on_as_they_were():
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    generator = np.random.default_rng(3)
    saved = through_json(
        [
            python,
            numpy,
            np.random.get_state(legacy=False),
            torch_state,
            generator.bit_generator.state,
        ]
    )
    expected = random.random(), np.random.rand(), torch.rand(()), generator.random()
    random.setstate(saved[0])
    np.random.set_state(saved[1])
    torch.set_rng_state(saved[3])
    generator.bit_generator.state = saved[4]
    assert expected == (random.random(), np.random.rand(), torch.rand(()), generator.random())
    np.random.set_state(saved[2])
    assert np.random.rand() == expected[1]


def test_a_scheduler_goes_on_as_it_was():
    """Its milestones are a counter, whose methods it calls."""

    def scheduler():
        optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=1.0)
        found = MultiStepLR(optimizer, [1, 2, 2], gamma=0.5)
        optimizer.step()
        return found

    first, second = scheduler(), scheduler()
    first.step()
    second.load_state_dict(through_json(first.state_dict()))
    second.optimizer.load_state_dict(through_json(first.optimizer.state_dict()))
    for each in (first, second):
        each.step()
    assert first.get_last_lr() == second.get_last_lr() == [0.125]
    assert list(second.milestones.elements()) == [1, 2, 2]


def test_one_object_is_stored_once():
    tensor, sparse = torch.ones(3), torch.eye(3).to_sparse()
    double = torch.ones(2, dtype=torch.complex128)
    _, tensors = encode({"a": tensor, "b": [tensor], "c": (sparse, sparse), "d": [double, double]})
    assert len(tensors) == 4
    found = through_json([tensor, tensor])
    assert found[0] is found[1]


def test_parts_of_one_memory_have_values_of_their_own():
    memory = torch.arange(6.0)
    first, second = through_json([memory[:4], memory[2:]])
    assert first.tolist() == [0, 1, 2, 3]
    assert second.tolist() == [2, 3, 4, 5]


def test_sparse_tensors_keep_what_they_are_made_of():
    twice = torch.sparse_coo_tensor(
        torch.tensor([[2, 2, 0]]),
        torch.tensor([[1.0], [2.0], [0.0]]),
        (3, 1),
        check_invariants=True,
    )
    found = through_json(twice)
    assert not found.is_coalesced()
    assert found._values().flatten().tolist() == [1, 2, 0]
    assert through_json(twice.coalesce()).is_coalesced()


def test_tensors_are_named_by_where_they_stand():
    tensor = torch.ones
    _, tensors = encode(
        {
            "model": {"layer.0.weight": tensor(1)},
            "groups": [(tensor(2),), {3: tensor(3)}],
            "a": {"b": tensor(4)},
            "a.b": tensor(5),
            "__metadata__": tensor(6),
            "\n": tensor(7),
            "x" * 999: tensor(8),
        }
    )
    names = {tensor.numel(): name for name, tensor in tensors.items()}
    assert names[1] == "model.layer.0.weight"
    assert names[2] == "groups.0.0"
    assert names[3] == "groups.1.3"
    assert names[4] == "a.b"
    assert names[5] == "a.b#2"
    assert names[6] == "metadata__"
    assert names[7] == "'\\n'"
    assert len(names[8]) <= 200


def test_other_mappings_become_dicts_and_parameters_tensors():
    assert through_json(MappingProxyType({"a": 1})) == {"a": 1}
    found = through_json(nn.Parameter(torch.ones(2)))
    assert type(found) is torch.Tensor
    assert not found.requires_grad


class Marked(torch.Tensor):
    pass


def test_subclasses_of_tensors_that_hold_values_become_tensors():
    found = through_json(torch.ones(2).as_subclass(Marked))
    assert type(found) is torch.Tensor
    assert found.tolist() == [1, 1]


def test_a_default_device_changes_nothing():
    tree = [torch.ones(2), torch.eye(2).to_sparse(), np.ones(2), b"ab", torch.ones(1).cdouble()]
    with torch.device("meta"):
        found = through_json(tree)
    assert same(tree, found)


@given(st.lists(dense(), min_size=1, max_size=4))
def test_encoding_changes_no_tensor(tensors):
    before = [(raw(t.detach()), t.requires_grad, t.stride()) for t in tensors]
    encode(tensors)
    assert before == [(raw(t.detach()), t.requires_grad, t.stride()) for t in tensors]
