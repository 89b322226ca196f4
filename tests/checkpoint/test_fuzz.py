"""Whatever a file holds: it is read as it was written, or refused in one line that names it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlo.checkpoint.file import read, read_header, write
from mlo.checkpoint.plain import encode
from mlo.errors import CheckpointError
from tests.checkpoint.forge import (
    METADATA,
    STRUCTURE,
    resealed,
    sealed,
    taken_apart,
    with_structure,
)
from tests.checkpoint.trees import same

STATES = [
    {
        "weights": torch.arange(4.0),
        "mask": torch.tensor([True, False]),
        "sparse": torch.eye(2).to_sparse(),
        "complex": torch.ones(1, dtype=torch.complex128),
        "array": np.arange(3, dtype=np.uint32),
        "scalar": np.float64(0.5),
        "steps": (1, 10**30, float("nan"), None, True, b"ab"),
        "kinds": [torch.float16, torch.device("cpu"), torch.Size([2]), {1, 2}],
    },
    {"weights": torch.zeros(4), "round": 3},
]
MARK = b'{"__metadata__":{"format":"mlo-checkpoint","schema":"1"'


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> list[bytes]:
    path = tmp_path_factory.mktemp("valid") / "a"
    contents = []
    for round, state in enumerate(STATES):
        write(path, state, round=round, score=0.5)
        contents.append(path.read_bytes())
    return contents


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "round-000000001.mlo"


def outcome(target: Path, content: bytes) -> Any:
    """Return the state in the file, or None if it was refused as it should be."""
    # Some file systems flush what replaces the content of a file, and nothing else.
    target.unlink(missing_ok=True)
    target.write_bytes(content)
    try:
        state = read(target).state
        refused = False
    except CheckpointError as error:
        state, refused = None, True
        check_line(target, error)
    try:
        read_header(target)
    except CheckpointError as error:
        check_line(target, error)
        assert refused
    assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]
    if refused:
        return None
    # Whatever was read can be saved.
    encode(state)
    return [state]


def check_line(target: Path, error: CheckpointError) -> None:
    message = str(error)
    assert len(message.splitlines()) == 1
    assert str(target) in message
    assert len(message) < len(str(target)) + 500


def check_original_or_refused(target: Path, content: bytes) -> None:
    found = outcome(target, content)
    assert found is None or any(same(state, found[0]) for state in STATES)


@examples(max_examples=500)
@given(content=st.binary(max_size=300), head=st.sampled_from([b"", MARK, b"\x89PNG", b"PK\3\4"]))
def test_random_bytes(target, content, head):
    check_original_or_refused(target, content)
    check_original_or_refused(target, len(content).to_bytes(8, "little") + head + content)


@examples(max_examples=500)
@given(data=st.data())
def test_bytes_cut_off_flipped_moved_and_put_in(target, valid, data):
    first, second = (data.draw(st.sampled_from(valid)) for _ in range(2))
    position = data.draw(st.integers(0, len(first)))
    other = data.draw(st.integers(0, len(second)))
    changed = bytearray(first)
    for _ in range(data.draw(st.integers(1, 5))):
        changed[data.draw(st.integers(0, len(first) - 1))] ^= data.draw(st.integers(1, 255))
    check_original_or_refused(target, first[:position])
    check_original_or_refused(target, first[:position] + second[other:])
    inserted = data.draw(st.binary(min_size=1, max_size=12))
    check_original_or_refused(target, first[:position] + inserted + first[position:])
    assert outcome(target, bytes(changed)) is None or bytes(changed) == first


@examples(max_examples=500)
@given(data=st.data())
def test_a_header_with_other_values_under_a_checksum_that_fits(target, valid, data):
    header, tensors = taken_apart(data.draw(st.sampled_from(valid)))
    mutated = mutation(data, header)
    if isinstance(mutated, dict) and METADATA in mutated:
        # First, as the format is told by how the header begins.
        mutated = {METADATA: mutated.pop(METADATA), **mutated}
    text = data.draw(textual(json.dumps(mutated, separators=(",", ":"))))
    content = b"".join(list(tensors.values())[:-1])
    outcome(target, sealed(text, content))
    outcome(target, resealed(header, dict(reversed(list(tensors.items())))))


@examples(max_examples=700)
@given(data=st.data())
def test_a_structure_with_other_values_under_a_checksum_that_fits(target, valid, data):
    content = data.draw(st.sampled_from(valid))
    structure = json.loads(taken_apart(content)[1][STRUCTURE])
    text = json.dumps(mutation(data, structure))
    outcome(target, with_structure(content, text))
    outcome(target, with_structure(content, data.draw(textual(text))))


KINDS = ["list", "tuple", "set", "dict", "ordered dict", "counter", "tensor", "tensor of", "sparse"]
KINDS += ["array", "numpy", "int", "float", "bytes", "size", "dtype", "device", "shape", "schema"]
NUMBERS = [0, 1, -1, 4, 8, 2**31, 2**62, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, float("inf")]
TEXTS = ["", "x", "1", "weights", STRUCTURE, "F32", "U8", "C64", "<f8", "|O8", "float64", "nan"]
TEXTS += ["cuda:99", "mps", "complex128", "\ud800", "\n", "-0x1", "0" * 5000]
values = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KINDS + TEXTS), inner, max_size=2)
    ),
    max_leaves=5,
)


def mutation(data: st.DataObject, value: Any) -> Any:
    """Return JSON in which up to three places are replaced, doubled, taken out or renamed."""
    for _ in range(data.draw(st.integers(1, 3))):
        holder = [value]
        places = list(places_of(holder))
        where, key = places[data.draw(st.integers(0, len(places) - 1))]
        match data.draw(st.sampled_from(["replaced", "replaced", "other", "gone", "renamed"])):
            case "replaced":
                where[key] = data.draw(values)
            case "other":
                source, name = places[data.draw(st.integers(0, len(places) - 1))]
                # A copy: what holds itself is no JSON.
                where[key] = json.loads(json.dumps(source[name]))
            case "gone" if where is not holder:
                del where[key]
            case "renamed" if isinstance(where, dict):
                where[data.draw(st.sampled_from(KINDS + TEXTS))] = where.pop(key)
        value = holder[0]
    return value


def places_of(value: Any) -> Any:
    inner = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, item in inner:
        yield value, key
        if isinstance(item, dict | list):
            yield from places_of(item)


@st.composite
def textual(draw: st.DrawFn, text: str) -> str:
    """The text, or one that differs by a few characters."""
    if draw(st.booleans()) or not text:
        return text
    begin = draw(st.integers(0, len(text) - 1))
    end = begin + draw(st.integers(0, 20))
    kept = text[begin:end] * draw(st.integers(0, 2))
    return text[:begin] + kept + draw(st.text('{}[]",:0eN\\u ', max_size=3)) + text[end:]
