"""Trees of plain data for Hypothesis, and when two of them are exactly the same."""

import json
import struct
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from torch import Tensor, nn

from mlo.checkpoint.layout import CODES
from mlo.checkpoint.plain import decode, encode

DTYPES = [*CODES, torch.complex128, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2]


def through_json(tree: Any) -> Any:
    """Return a tree that was encoded, written as JSON, read again and decoded."""
    structure, tensors = encode(tree)
    return decode(json.loads(json.dumps(structure, allow_nan=False)), tensors)


def same(left: Any, right: Any) -> bool:
    """Return whether two trees are alike in types, order and every bit; any nan is like another."""
    if isinstance(left, Tensor):
        return type(right) is Tensor and _same_tensors(left.detach(), right)
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray | np.generic):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        # The bytes of such a number are not all used.
        is_long = left.dtype.char in "gG"
        return bool(np.array_equal(left, right)) if is_long else left.tobytes() == right.tobytes()
    if isinstance(left, float):
        both_nan = left != left and right != right
        return both_nan or struct.pack("<d", left) == struct.pack("<d", right)
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, list | tuple):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(same(a, b) for a, b in pairs)
    return bool(left == right)


def _same_tensors(left: Tensor, right: Tensor) -> bool:
    if (left.dtype, left.shape, left.layout) != (right.dtype, right.shape, right.layout):
        return False
    if left.layout is torch.sparse_coo:
        return (
            left.is_coalesced() == right.is_coalesced()
            and _same_tensors(left._indices(), right._indices())
            and _same_tensors(left._values(), right._values())
        )
    return raw(left) == raw(right)


def raw(tensor: Tensor) -> bytes:
    """Return the values as bytes, row by row, by another way than the code under test."""
    whole = torch.clone(tensor.resolve_conj().resolve_neg(), memory_format=torch.contiguous_format)
    return bytes(whole.flatten().view(torch.uint8).tolist())


@st.composite
def dense(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> Tensor:
    """Tensors of any bits, of few dimensions, some laid out oddly in memory."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    size = int(np.prod(shape)) * dtype.itemsize
    content = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        content = bytearray(byte & 1 for byte in content)
    flat = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0).byte()
    tensor = flat.view(dtype).reshape(shape)
    if dtype is torch.float4_e2m1fn_x2:
        # Torch can do next to nothing with it.
        return tensor
    oddity = draw(st.sampled_from(["none", "transposed", "part", "expanded", "lazy", "parameter"]))
    match oddity:
        case "transposed":
            return tensor.transpose(0, -1) if tensor.dim() > 1 else tensor
        case "part":
            # Of one element too, whose stride then is two.
            return torch.stack([tensor, tensor], dim=-1)[..., 1] if tensor.numel() else tensor
        case "expanded":
            return tensor.expand(2, *shape)
        case "lazy":
            if tensor.is_complex():
                return tensor.conj().imag if draw(st.booleans()) else tensor.conj()
        case "parameter":
            floating = tensor.is_floating_point()
            return nn.Parameter(tensor, requires_grad=floating and dtype.itemsize > 1)
    return tensor


@st.composite
def sparse(draw: st.DrawFn) -> Tensor:
    """Sparse tensors with up to one dense dimension, coalesced or not."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    index = draw(st.lists(st.integers(0, rows - 1), max_size=4))
    values = torch.tensor(
        draw(st.lists(st.floats(width=32), min_size=len(index), max_size=len(index)))
    )
    values = values[:, None].expand(-1, columns).contiguous() if columns else values
    shape = (rows, columns) if columns else (rows,)
    found = torch.sparse_coo_tensor(
        torch.tensor([index], dtype=torch.int64), values, shape, check_invariants=True
    )
    return found.coalesce() if draw(st.booleans()) else found


_numbers = numpy_strategies.boolean_dtypes() | numpy_strategies.floating_dtypes()
_numbers |= numpy_strategies.integer_dtypes() | numpy_strategies.unsigned_integer_dtypes()
_numbers |= numpy_strategies.complex_number_dtypes()
arrays = numpy_strategies.arrays(
    _numbers, numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
)
scalars = _numbers.flatmap(numpy_strategies.from_dtype)

texts = st.text(st.characters(codec=None), max_size=6)
integers = st.integers() | st.integers(-(10**400), 10**400)
atoms = st.none() | st.booleans() | integers | st.floats() | texts | st.binary(max_size=9)
torch_values = st.sampled_from(
    [torch.float32, torch.bfloat16, torch.device("cpu"), torch.device("cuda", 1), torch.Size([2])]
)
leaves = atoms | dense() | sparse() | arrays | scalars | torch_values
keys = st.recursive(atoms, lambda inner: st.lists(inner, max_size=2).map(tuple), max_leaves=3)

trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=3).map(OrderedDict)
        | st.dictionaries(texts, st.integers(0, 9), max_size=3).map(Counter)
        | st.sets(st.integers() | texts, max_size=3)
    ),
    max_leaves=12,
)
