"""Vector algebra on named tensors.

A `Params` is one vector: the concatenation of its tensors. All functions are pure; dense tensors
go through the fused ``torch._foreach_*`` kernels, one call for the whole vector. Sparse tensors
(the gradient of an embedding) are allowed where a gradient may appear.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mlo.parallel.sharded_tensors import (
    any_sharded,
    local,
    locals_of,
    of_all_parts,
    with_part,
)

Params = dict[str, Tensor]
"""Named tensors that form one vector; keys as in ``module.named_parameters()``."""


def _dense_values(tree: Mapping[str, Tensor]) -> list[Tensor]:
    """The stored values of every tensor; the implicit zeros of a sparse one change no norm."""
    return [t.coalesce().values() if t.is_sparse else t for t in locals_of(tree.values())]


def _largest_of_parts(tree: Mapping[str, Tensor]) -> Sequence[Tensor]:
    """The largest absolute entry of the part of each tensor, 0 where a part is empty."""
    values = [t if t.numel() else t.new_zeros(1) for t in _dense_values(tree)]
    return torch._foreach_norm(values, ord=float("inf"))


def _any_sparse(tensors: Iterable[Tensor]) -> bool:
    return any(t.is_sparse for t in tensors)


def _rebuild(tree: Mapping[str, Tensor], values: Sequence[Tensor]) -> Params:
    if any_sharded(tree.values()):
        values = [with_part(t, value) for t, value in zip(tree.values(), values, strict=True)]
    return dict(zip(tree, values, strict=True))


def norm(tree: Mapping[str, Tensor]) -> Tensor:
    """Return the Euclidean norm of the whole vector, a 0-dim tensor.

    >>> norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])})
    tensor(5.)
    """
    if not tree:
        return torch.zeros(())
    norms = of_all_parts(torch._foreach_norm(_dense_values(tree)), tree.values())
    length: Tensor = torch.linalg.vector_norm(norms)
    return length


def largest(tree: Mapping[str, Tensor]) -> Tensor:
    """Return the largest absolute entry, a 0-dim tensor; NaN if any entry is NaN.

    >>> largest({"a": torch.tensor([3.0, -7.0])})
    tensor(7.)
    """
    if any_sharded(tree.values()):
        return of_all_parts(_largest_of_parts(tree), tree.values()).amax()
    filled = [t for t in _dense_values(tree) if t.numel()]
    if not filled:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(filled, ord=float("inf"))).amax()


def size(tree: Mapping[str, Tensor]) -> float | Tensor:
    """Return a number that is 0, finite or not just as the largest absolute entry is.

    On a CPU it is a number, which costs less than a tensor; elsewhere a 0-dim tensor, as a number
    would have to be waited for.

    >>> size({"a": torch.tensor([3.0, -4.0])}), size({"a": torch.tensor([float("nan")])})
    (5.0, nan)
    """
    if any_sharded(tree.values()):
        found = of_all_parts(_largest_of_parts(tree), tree.values()).amax()
        return float(found) if found.device.type == "cpu" else found
    filled = [t for t in _dense_values(tree) if t.numel()]
    if not filled:
        return 0.0
    if filled[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(filled, ord=float("inf"))).amax()
    # There the largest entry takes twenty times as long as the norm, whose squares may however
    # overflow or vanish where the entries do not.
    length = sum(map(float, torch._foreach_norm(filled)))
    if length > 0 and math.isfinite(length):
        return length
    return sum(map(float, torch._foreach_norm(filled, ord=float("inf"))))


def dot(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Return the inner product of two vectors of dense tensors, a 0-dim tensor.

    >>> dot({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 4.0])})
    tensor(11.)
    """
    products = [_inner(local(left[name]), local(right[name])) for name in left]
    return of_all_parts(products, left.values()).sum() if products else torch.zeros(())


def inner(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float | Tensor:
    """Return the inner product, on a CPU as a number, which costs less than a tensor there.

    >>> inner({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 4.0])})
    11.0
    """
    if not left:
        return 0.0
    products = [_inner(local(tensor), local(right[name])) for name, tensor in left.items()]
    if any_sharded(left.values()):
        products = list(of_all_parts(products, left.values()))
    if products[0].device.type == "cpu":
        return sum(map(float, products))
    return torch.stack(products).sum()


def scaled(tree: Mapping[str, Tensor], factor: float | Tensor) -> Params:
    """Return ``factor * tree``.

    >>> scaled({"a": torch.tensor([1.0, 2.0])}, 3.0)
    {'a': tensor([3., 6.])}
    """
    values = locals_of(tree.values())
    if not values:
        return {}
    if _any_sparse(values):
        return {name: t * factor for name, t in tree.items()}
    return _rebuild(tree, torch._foreach_mul(values, factor))


def weighted(tree: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> Params:
    """Return the entrywise product, one weight (number or tensor) for each named tensor.

    >>> weighted({"a": torch.tensor([1.0, 2.0])}, {"a": 0.5})
    {'a': tensor([0.5000, 1.0000])}
    """
    return {name: t * weights[name] for name, t in tree.items()}


def plus(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Params:
    """Return ``left + right``.

    >>> plus({"a": torch.tensor([1.0])}, {"a": torch.tensor([2.0])})
    {'a': tensor([3.])}
    """
    first, second = locals_of(left.values()), locals_of(right[name] for name in left)
    if not first:
        return {}
    if _any_sparse(first) or _any_sparse(second):
        # Dense + sparse is defined in this order only.
        pairs = ((a, b) if b.is_sparse else (b, a) for a, b in zip(first, second, strict=True))
        return _rebuild(left, [a + b for a, b in pairs])
    return _rebuild(left, torch._foreach_add(first, second))


def minus(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Params:
    """Return ``left - right``.

    >>> minus({"a": torch.tensor([1.0])}, {"a": torch.tensor([2.0])})
    {'a': tensor([-1.])}
    """
    first, second = locals_of(left.values()), locals_of(right[name] for name in left)
    if not first:
        return {}
    if _any_sparse(first) or _any_sparse(second):
        return _rebuild(left, [a - b for a, b in zip(first, second, strict=True)])
    return _rebuild(left, torch._foreach_sub(first, second))


def merged(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Params:
    """Return ``left + right`` where a name that one side lacks counts as zero there.

    >>> merged({"a": torch.tensor([1.0])}, {"a": torch.tensor([2.0]), "b": torch.tensor([5.0])})
    {'a': tensor([3.]), 'b': tensor([5.])}
    """
    shared = [name for name in left if name in right]
    total = plus({n: left[n] for n in shared}, {n: right[n] for n in shared})
    return {**left, **right, **total}


def zeros_like(tree: Mapping[str, Tensor]) -> Params:
    """Return a vector of zeros with the shapes of `tree`.

    >>> zeros_like({"a": torch.ones(2)})
    {'a': tensor([0., 0.])}
    """
    return {name: torch.zeros_like(t) for name, t in tree.items()}


def dense(tree: Mapping[str, Tensor]) -> Params:
    """Return the same vector with every sparse tensor made dense.

    >>> dense({"a": torch.eye(2).to_sparse()})["a"].layout
    torch.strided
    """
    return {name: t.to_dense() if t.is_sparse else t for name, t in tree.items()}


def unshared(tree: Mapping[str, Tensor], others: Collection[int] = ()) -> Params:
    """Return the vector in memory that may be written to, copied where it must be.

    Backward passes hand out broadcast tensors, and one tensor for several variables.

    Args:
        tree: The vector; sparse tensors are passed on as they are.
        others: Addresses of storages that somebody else looks at.

    >>> shared = torch.ones(2)
    >>> given = unshared({"a": shared, "b": shared, "c": torch.ones(()).expand(3)})
    >>> given["a"] is shared, given["b"] is shared, given["c"].stride()
    (True, False, (1,))
    """
    seen = set(others)
    own: Params = {}
    for name, tensor in tree.items():
        if not tensor.is_sparse:
            part = local(tensor)
            storage = part.untyped_storage()
            address = storage.data_ptr()
            if address in seen or part.numel() * part.element_size() != storage.nbytes():
                tensor = tensor.clone(memory_format=torch.contiguous_format)
            seen.add(address)
        own[name] = tensor
    return own


def constants(tree: Mapping[str, Tensor]) -> Params:
    """Return tensors that share memory with `tree` and that autograd does not follow.

    >>> constants({"a": torch.ones(1, requires_grad=True)})["a"].requires_grad
    False
    """
    return {name: t.detach() if t.requires_grad else t for name, t in tree.items()}


def leaves(tree: Mapping[str, Tensor]) -> Params:
    """Return views that share memory with `tree` and that autograd takes as new variables.

    >>> leaves({"a": torch.ones(1)})["a"].requires_grad
    True
    """
    return {name: t.detach().requires_grad_() for name, t in tree.items()}


def axpy_(target: Mapping[str, Tensor], tree: Mapping[str, Tensor], factor: float | Tensor) -> None:
    """Set ``target ← target + factor * tree`` in place, in one pass where `factor` is a number.

    >>> total = {"a": torch.tensor([1.0, 2.0])}
    >>> axpy_(total, {"a": torch.tensor([10.0, 20.0])}, 0.5)
    >>> total
    {'a': tensor([ 6., 12.])}
    """
    written, moved = locals_of(target.values()), locals_of(tree[name] for name in target)
    if not written:
        return
    if isinstance(factor, Tensor):
        # As a number it would have to be fetched from the device.
        torch._foreach_add_(written, torch._foreach_mul(moved, factor))
    else:
        torch._foreach_add_(written, moved, alpha=factor)


def aypx_(target: Mapping[str, Tensor], tree: Mapping[str, Tensor], factor: float | Tensor) -> None:
    """Set ``target ← factor * target + tree`` in place, in one pass where `factor` is a number.

    >>> total = {"a": torch.tensor([1.0, 2.0])}
    >>> aypx_(total, {"a": torch.tensor([10.0, 20.0])}, 0.5)
    >>> total
    {'a': tensor([10.5000, 21.0000])}
    """
    if isinstance(factor, Tensor):
        if target:
            written = locals_of(target.values())
            torch._foreach_mul_(written, factor)
            torch._foreach_add_(written, locals_of(tree[name] for name in target))
        return
    for name, tensor in target.items():
        written_to = local(tensor)
        torch.add(local(tree[name]), written_to, alpha=factor, out=written_to)


def axpy(left: Mapping[str, Tensor], right: Mapping[str, Tensor], factor: float | Tensor) -> Params:
    """Return ``left + factor * right`` for vectors of dense tensors.

    >>> axpy({"a": torch.tensor([1.0])}, {"a": torch.tensor([10.0])}, 0.5)
    {'a': tensor([6.])}
    """
    first, second = locals_of(left.values()), locals_of(right[name] for name in left)
    if not first:
        return {}
    if isinstance(factor, Tensor):
        moved = torch._foreach_mul(second, factor)
        torch._foreach_add_(moved, first)
        return _rebuild(left, moved)
    return _rebuild(left, torch._foreach_add(first, second, alpha=factor))


_CHUNK = 1 << 20


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner product of two dense tensors, without a temporary where they are contiguous.

    In float32 ``torch.dot`` loses 3e-4 over ten million terms, so long ones are summed in pieces.
    """
    if left.dtype != right.dtype or not (left.is_contiguous() and right.is_contiguous()):
        return torch.sum(left * right)
    first, second = left.view(-1), right.view(-1)
    if first.numel() <= _CHUNK:
        return torch.dot(first, second)
    pieces = zip(torch.split(first, _CHUNK), torch.split(second, _CHUNK), strict=True)
    return torch.stack([torch.dot(a, b) for a, b in pieces]).sum()
