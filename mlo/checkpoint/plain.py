"""Trees of plain data as a structure for JSON and tensors by name, and back, exactly.

A value that JSON holds as it is stays as it is; every other one becomes an object with a single
key that names its kind, such as ``{"tuple": [...]}``.
"""

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from mlo.checkpoint.layout import CODES
from mlo.errors import CheckpointError

MAX_DEPTH = 100
"""How deeply a tree may be nested."""

Structure = Any
"""What `json.dumps` takes."""

_ATOMS = frozenset({type(None), bool, str})
_KEYS = _ATOMS | {int, float, bytes, tuple, torch.dtype, torch.device}
_SEQUENCES: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set}
_MAPPINGS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "ordered dict": OrderedDict,
    "counter": Counter,
}
_MAPPING_KINDS: dict[type, str] = {OrderedDict: "ordered dict", Counter: "counter"}

# The file has no names for these, so that their bytes are saved.
_AS_BYTES = frozenset({torch.complex128, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2})
_DTYPES = {str(v).removeprefix("torch."): v for v in vars(torch).values() if type(v) is torch.dtype}
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_NUMPY_KIND = re.compile(r"[<>|][biufc][0-9]{1,2}")
_LONGEST_NAME = 200


def encode(tree: Any) -> tuple[Structure, dict[str, Tensor]]:
    """Return the structure of a tree, and its tensors by names made of where they stand.

    Tensors are not copied; each object is there once, and one that is part of another's memory is
    there with its own values. Mappings other than dicts, ordered dicts and counters become dicts,
    and parameters and other subclasses of tensors become tensors.

    Args:
        tree: Tensors (sparse ones too), NumPy arrays and scalars, numbers, texts, bytes, None,
            dtypes, devices and sizes, and dicts, lists, tuples and sets of them.

    Raises:
        CheckpointError: A value is none that can be saved, or stands deeper than `MAX_DEPTH`; the
            message says where.

    >>> structure, tensors = encode({"step": (3, torch.ones(2))})
    >>> structure, list(tensors)
    ({'dict': [['step', {'tuple': [3, {'tensor': 'step.1'}]}]]}, ['step.1'])
    >>> decode(structure, tensors)
    {'step': (3, tensor([1., 1.]))}
    """
    encoder = _Encoder()
    try:
        return encoder.encoded(tree), encoder.tensors
    except RecursionError as error:
        raise encoder.refusal("nested too deeply") from error


def byte_tensor(array: Any) -> Tensor:
    """Return a copy of the bytes of an array as a tensor.

    >>> byte_tensor(np.array([1, 256], dtype="<u2"))
    tensor([1, 0, 0, 1], dtype=torch.uint8)
    """
    return torch.from_numpy(np.array(array, order="C", copy=True).reshape(-1).view(np.uint8))


class _Encoder:
    """Encodes one tree.

    Attributes:
        tensors: What has been found so far, by name.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._path: list[str] = []
        self._namesakes: Counter[str] = Counter()
        # Each with its tensor, which keeps the id from being given to another one.
        self._seen: dict[int, tuple[Tensor, Structure]] = {}

    def encoded(self, value: Any) -> Structure:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is int:
            # Longer ones would meet Python's bound on digits.
            return value if abs(value) < 2**63 else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, np.generic):
            scalar = self._numbers(value)
            return {"numpy": [scalar.dtype.str, scalar.tobytes().hex()]}
        if kind in (np.ndarray, np.memmap):
            array = self._numbers(value)
            return {"array": [array.dtype.str, list(array.shape), self._named(byte_tensor(array))]}
        if kind is bytes:
            return {"bytes": self._named(byte_tensor(np.frombuffer(value, np.uint8)))}
        if kind is torch.Size:
            return {"size": list(value)}
        if kind is torch.dtype:
            return {"dtype": str(value).removeprefix("torch.")}
        if kind is torch.device:
            return {"device": str(value)}
        if isinstance(value, Mapping):
            pairs = [[self._key(key), self._below(key, item)] for key, item in value.items()]
            return {_MAPPING_KINDS.get(kind, "dict"): pairs}
        if kind in (list, tuple, set):
            return {kind.__name__: [self._below(i, item) for i, item in enumerate(value)]}
        raise self.refusal(
            "expected tensors, arrays, numbers, texts and dicts, lists and tuples of them, got "
            f"{_type_name(value)}"
        )

    def refusal(self, reason: str) -> CheckpointError:
        # A path of a hundred steps is no help to anyone.
        parts = self._path if len(self._path) <= 12 else [*self._path[:7], "...", *self._path[-5:]]
        path = ".".join(parts)
        return CheckpointError(f"{path or 'the state'}: {reason}")

    def _below(self, key: Any, value: Any) -> Structure:
        if type(value) in _ATOMS:
            return value
        self._path.append(_shown(key))
        if len(self._path) > MAX_DEPTH:
            raise self.refusal(
                f"nested deeper than {MAX_DEPTH} levels, expected less; or it contains itself"
            )
        found = self.encoded(value)
        self._path.pop()
        return found

    def _key(self, key: Any) -> Structure:
        if type(key) not in _KEYS:
            raise self.refusal(
                f"expected keys that are texts, numbers or tuples, got one of {_type_name(key)}"
            )
        return self._below("key", key)

    def _tensor(self, tensor: Tensor) -> Structure:
        if id(tensor) not in self._seen:
            self._seen[id(tensor)] = tensor, self._new_tensor(tensor)
        return self._seen[id(tensor)][1]

    def _new_tensor(self, tensor: Tensor) -> Structure:
        kind = type(tensor)
        if _has_no_values(tensor):
            raise self.refusal(
                f"expected a tensor with values of its own, got {_described(tensor)}"
            )
        plain = tensor.detach()
        if kind is not Tensor:
            plain = plain.as_subclass(Tensor)
        if plain.layout is torch.sparse_coo:
            parts = [self._tensor(plain._indices()), self._tensor(plain._values())]
            return {"sparse": [parts, list(plain.shape), plain.is_coalesced()]}
        if plain.layout is not torch.strided:
            raise self.refusal(f"expected a dense or COO tensor, got {_described(tensor)}")
        if plain.dtype in _AS_BYTES:
            whole = plain.resolve_conj().resolve_neg().contiguous()
            name = self._named(whole.unsqueeze(-1).view(torch.uint8))
            return {"tensor of": [str(plain.dtype).removeprefix("torch."), name]}
        if plain.dtype not in CODES:
            raise self.refusal(f"expected a tensor of a common dtype, got {_described(tensor)}")
        return {"tensor": self._named(plain)}

    def _numbers(self, value: Any) -> Any:
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise self.refusal(f"expected an array of numbers, got one of {array.dtype}")
        return array

    def _named(self, tensor: Tensor) -> str:
        # Names that begin like this are those of the file itself.
        path = ".".join(self._path)[-_LONGEST_NAME:].lstrip("_") or "state"
        name = path
        while name in self.tensors:
            self._namesakes[path] += 1
            name = f"{path}#{self._namesakes[path] + 1}"
        self.tensors[name] = tensor
        return name


def decode(structure: Structure, tensors: Mapping[str, Tensor]) -> Any:
    """Return the tree that `encode` was given.

    Raises:
        CheckpointError: The structure is none that `encode` makes, or lacks a tensor.

    >>> decode({"tuple": [1, {"float": "inf"}, {"tensor": "a"}]}, {"a": torch.ones(1)})
    (1, inf, tensor([1.]))
    """
    try:
        return _decoded(structure, tensors, 0)
    except CheckpointError:
        raise
    # What comes from elsewhere can be wrong in more ways than can be told apart.
    except Exception as error:
        text = str(error).splitlines()[0][:200] if str(error) else ""
        raise CheckpointError(
            f"its structure holds a value that cannot be made: {type(error).__name__}: {text}"
        ) from error


def _decoded(node: Structure, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if depth > MAX_DEPTH:
        raise CheckpointError(f"its structure is nested deeper than {MAX_DEPTH} levels")
    if not isinstance(node, dict) or len(node) != 1:
        raise CheckpointError(f"its structure holds a bare {type(node).__name__}, expected a kind")
    [(kind, content)] = node.items()
    if kind in _SEQUENCES:
        return _SEQUENCES[kind]([_decoded(v, tensors, depth + 1) for v in _listed(content)])
    if kind in _MAPPINGS:
        entries = [_listed(entry, 2) for entry in _listed(content)]
        pairs = [
            (_decoded(key, tensors, depth + 1), _decoded(item, tensors, depth + 1))
            for key, item in entries
        ]
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointError("its structure has a key twice")
        return _MAPPINGS[kind](found)
    if kind not in _LEAVES:
        raise CheckpointError(f"its structure has a value of the unknown kind {kind[:40]!r}")
    return _LEAVES[kind](content, tensors)


def _tensor(name: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    if not isinstance(name, str) or name not in tensors:
        raise CheckpointError(
            f"its structure names a tensor {str(name)[:80]!r}, which the file does not hold"
        )
    return tensors[name]


def _tensor_of(content: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    dtype, name = _listed(content, 2)
    return _tensor(name, tensors).view(_DTYPES[dtype]).squeeze(-1)


def _sparse(content: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    parts, shape, is_coalesced = _listed(content, 3)
    indices, values = (_decoded(part, tensors, MAX_DEPTH) for part in _listed(parts, 2))
    if not (isinstance(indices, Tensor) and isinstance(values, Tensor)):
        raise CheckpointError("its structure has a sparse tensor that is not made of tensors")
    return torch.sparse_coo_tensor(
        indices,
        values,
        shape,
        # Where the values are, whatever the default device.
        device=values.device,
        check_invariants=True,
        is_coalesced=is_coalesced,
    )


def _array(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    kind, shape, name = _listed(content, 3)
    return _bytes(name, tensors).view(_numpy_dtype(kind)).reshape(shape).copy()


def _numpy_scalar(content: Any) -> Any:
    kind, text = _listed(content, 2)
    [scalar] = np.frombuffer(bytes.fromhex(text), dtype=_numpy_dtype(kind))
    return scalar


def _numpy_dtype(kind: Any) -> Any:
    if not _NUMPY_KIND.fullmatch(kind):
        raise CheckpointError(f"its structure has numbers of the unknown dtype {kind[:40]!r}")
    return np.dtype(kind)


def _bytes(name: Any, tensors: Mapping[str, Tensor]) -> Any:
    content = _tensor(name, tensors)
    if content.dtype != torch.uint8 or content.dim() != 1:
        raise CheckpointError(f"its structure takes tensor {name[:80]!r} for bytes")
    return content.numpy()


def _listed(content: Any, length: int | None = None) -> list[Any]:
    if not isinstance(content, list) or length not in (None, len(content)):
        raise CheckpointError("its structure has something else where a list is expected")
    return content


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise CheckpointError(f"its structure has {type(content).__name__}, expected a text")
    return content


_LEAVES: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "tensor": _tensor,
    "tensor of": _tensor_of,
    "sparse": _sparse,
    "array": _array,
    "numpy": lambda content, _: _numpy_scalar(content),
    "int": lambda content, _: int(_text(content), 16),
    "float": lambda content, _: _FLOATS[content],
    "bytes": lambda content, tensors: _bytes(content, tensors).tobytes(),
    "size": lambda content, _: torch.Size(_listed(content)),
    "dtype": lambda content, _: _DTYPES[content],
    "device": lambda content, _: torch.device(_text(content)),
}


def _shown(key: Any) -> str:
    try:
        text = key if isinstance(key, str) and key.isprintable() else repr(key)
    except ValueError:
        # Python refuses to write integers of some thousand digits.
        text = type(key).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def _has_no_values(tensor: Tensor) -> bool:
    # Classes with a dispatch of their own stand for what they compute or what others hold.
    dispatches = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    return dispatches or is_lazy(tensor) or tensor.is_nested or tensor.is_meta


def _described(tensor: Tensor) -> str:
    if is_lazy(tensor):
        return f"an uninitialised {_type_name(tensor)}"
    layout = "" if tensor.layout is torch.strided else f" with layout {tensor.layout}"
    return f"{_type_name(tensor)} of {tensor.dtype} on {tensor.device}{layout}"


def _type_name(value: object) -> str:
    kind = type(value)
    prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{prefix}{kind.__qualname__}"
