"""What cannot be saved, and structures that were never saved, are refused in one line."""

import inspect
import sys
from enum import IntEnum

import numpy as np
import pytest
import torch
from torch import nn

from mlo.checkpoint.plain import MAX_DEPTH, decode, encode
from mlo.errors import CheckpointError
from tests.checkpoint.trees import same, through_json


def nested(depth):
    tree = 1
    for level in range(depth):
        tree = [[tree], (tree,), {"a": tree}, {(1,): tree}][level % 4]
    return tree


class Colour(IntEnum):
    RED = 1


class Sub(int):
    pass


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "object"),
        (len, "builtin_function_or_method"),
        (Colour.RED, "Colour"),
        (Sub(3), "Sub"),
        (1j, "complex"),
        (torch.optim.SGD, "type"),
        (np.array(["a"]), "<U1"),
        (np.array([None]), "object"),
        (np.zeros(1, dtype="i4,f4"), "i4"),
        (np.ma.masked_array([1, 2], [0, 1]), "MaskedArray"),
        (np.datetime64(1, "s"), "datetime64"),
        (torch.empty(2, device="meta"), "meta"),
        (nn.LazyLinear(2).weight, "UninitializedParameter"),
        (torch.ones(2, dtype=torch.uint8).view(torch.bits8), "bits8"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_saved_is_named_with_its_place_and_type(value, kind):
    with pytest.raises(CheckpointError) as caught:
        encode({"optimizers": {"model": {"state": {0: {"foo": value}}}}})
    message = str(caught.value)
    assert message.startswith("optimizers.model.state.0.foo: ")
    assert kind in message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_of_other_layouts_are_refused():
    csr = torch.eye(2).to_sparse_csr()
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    for value in (csr, jagged):
        with pytest.raises(CheckpointError, match=r"^a\.1: expected a .*tensor"):
            encode({"a": [0, value]})


@pytest.mark.parametrize("key", [frozenset(), object(), Colour.RED, np.float64(1)])
def test_a_key_that_cannot_be_saved_is_refused(key):
    with pytest.raises(CheckpointError, match=r"^a: expected keys") as caught:
        encode({"a": {key: 1}})
    assert type(key).__name__ in str(caught.value)


@pytest.mark.parametrize(
    "key",
    ["two\nlines", "\u2028", "x" * 9999, (1, "\n"), 10**5000],
    ids=["lines", "separator", "long", "tuple", "digits"],
)
def test_whatever_the_keys_the_message_is_one_short_line(key):
    tree = object()
    for _ in range(20):
        tree = {key: tree}
    with pytest.raises(CheckpointError) as caught:
        encode(tree)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1200


def test_depth_is_bounded():
    assert same(nested(MAX_DEPTH), through_json(nested(MAX_DEPTH)))
    for depth in (MAX_DEPTH + 2, 5000):
        with pytest.raises(CheckpointError, match="nested deeper than 100 levels") as caught:
            encode(nested(depth))
        assert "\n" not in str(caught.value)


def test_a_tree_that_contains_itself_is_refused():
    tree = {}
    tree["again"] = [tree]
    with pytest.raises(CheckpointError, match="contains itself"):
        encode(tree)


@pytest.mark.parametrize("takes", ["tree", "structure"])
def test_a_deep_stack_is_no_reason_for_another_error(takes):
    tree = nested(90)
    structure, _ = encode(tree)

    def from_below(frames):
        if frames:
            return from_below(frames - 1)
        return encode(tree) if takes == "tree" else decode(structure, {})

    outcomes = set()
    free = sys.getrecursionlimit() - len(inspect.stack(0))
    # The last frames are needed to say anything at all.
    for frames in range(free - 400, free - 30, 5):
        try:
            from_below(frames)
            outcomes.add("done")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"done", "refused"}


@pytest.mark.parametrize(
    "structure",
    [
        [],
        [1],
        {},
        {"list": [], "tuple": []},
        {"list": "abc"},
        {"list": {"a": 1}},
        {"list": [[1]]},
        {"dict": [["a"]]},
        {"dict": [["a", 1, 2]]},
        {"dict": ["ab"]},
        {"dict": [["a", 1], ["a", 2]]},
        {"dict": [[{"list": []}, 1]]},
        {"set": [{"list": []}]},
        {"counter": 3},
        {"unknown": 1},
        {"x" * 10_000: 1},
        {"tensor": "absent"},
        {"tensor": ["t"]},
        {"tensor": None},
        {"tensor of": ["float64", "t"]},
        {"tensor of": ["os", "t"]},
        {"tensor of": "ab"},
        {"sparse": []},
        {"sparse": [[{"tensor": "t"}, {"tensor": "t"}], [3], True]},
        {"sparse": [[{"tensor": "i"}, {"tensor": "t"}], [1], True]},
        {"sparse": [[{"tensor": "i"}, {"tensor": "t"}], [-1], False]},
        {"sparse": [[{"tensor": "i"}, {"tensor": "t"}], [2**70], False]},
        {"sparse": [[{"list": []}, 1], [3], True]},
        {"sparse": [[{"sparse": []}, {"tensor": "t"}], [3], True]},
        {"array": ["O", [1], "b"]},
        {"array": ["|O8", [1], "b"]},
        {"array": ["<f8", [2], "b"]},
        {"array": ["<f8", [2**70], "b"]},
        {"array": ["<f3", [1], "b"]},
        {"array": ["(9999999,)<f8", [1], "b"]},
        {"array": ["<f8", "1", "b"]},
        {"array": ["<f8", [1], "t"]},
        {"array": [8, [1], "b"]},
        {"numpy": ["<f8", [1], "absent"]},
        {"numpy": ["<f8", "00"]},
        {"numpy": ["<f8", ""]},
        {"numpy": ["<f8", "00" * 16]},
        {"numpy": ["<f8", "xy" * 8]},
        {"numpy": ["O", "00" * 8]},
        {"numpy": ["<f8", 8]},
        {"int": 5},
        {"int": "x"},
        {"int": ""},
        {"float": "1e5"},
        {"float": 3},
        {"float": []},
        {"bytes": "t"},
        {"bytes": 7},
        {"size": ["a"]},
        {"size": 3},
        {"size": ["a", 1]},
        {"dtype": "nn"},
        {"dtype": "_dynamo"},
        {"dtype": []},
        {"device": "nowhere"},
        {"device": 5},
        {"device": "cpu\n\n"},
    ],
    ids=lambda structure: str(structure)[:40],
)
def test_a_structure_that_was_never_encoded_is_refused(structure):
    tensors = {
        "t": torch.ones(3),
        "i": torch.tensor([[0, 1, 2]]),
        "b": torch.zeros(8, dtype=torch.uint8),
    }
    with pytest.raises(CheckpointError) as caught:
        decode(structure, tensors)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_a_structure_may_be_no_deeper_than_a_tree():
    structure = 1
    for _ in range(MAX_DEPTH + 2):
        structure = {"list": [structure]}
    with pytest.raises(CheckpointError, match="nested deeper"):
        decode(structure, {})
