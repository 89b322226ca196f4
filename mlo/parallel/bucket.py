"""Tensors that are reduced together: one flat buffer, and behind them who had a tensor at all."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlo.parallel.collectives import Collectives


@dataclass(frozen=True)
class Spec:
    """What a tensor looks like, known also to a rank that has none.

    Attributes:
        shape: Its shape.
        stride: Its strides; those of a contiguous tensor where it has holes or is sparse.
        dtype: Its dtype.
        device: Its device.
    """

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        """Its size, dense."""
        return self.shape.numel() * self.dtype.itemsize


def spec_of(tensor: Tensor) -> Spec:
    """Return the spec of a tensor.

    >>> spec_of(torch.zeros(2, 3)).bytes
    24
    """
    is_strided = tensor.layout == torch.strided
    if is_strided and (tensor.is_contiguous() or _fills_its_memory(tensor)):
        stride = tensor.stride()
    else:
        stride = torch.empty(tensor.shape, device="meta").stride()
    return Spec(tensor.shape, stride, tensor.dtype, tensor.device)


def _fills_its_memory(tensor: Tensor) -> bool:
    expected = 1
    for step, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1 and step != expected:
            return False
        expected *= length
    return True


def by_dtype(specs: Mapping[int, Spec]) -> list[dict[int, Spec]]:
    """Return the specs apart by dtype and device, in the order in which these first appear.

    >>> single, double = (spec_of(torch.ones(1, dtype=t)) for t in (torch.float, torch.double))
    >>> [list(part) for part in by_dtype({0: single, 1: double, 2: single})]
    [[0, 2], [1]]
    """
    parts: dict[tuple[torch.dtype, torch.device], dict[int, Spec]] = {}
    for position, spec in specs.items():
        parts.setdefault((spec.dtype, spec.device), {})[position] = spec
    return list(parts.values())


class Seen(NamedTuple):
    """Whether a rank, or any rank, has a tensor dense, and whether sparse."""

    dense: bool = False
    sparse: bool = False


def seen_in(tensor: Tensor | None) -> Seen:
    """Return what one rank has.

    >>> seen_in(None), seen_in(torch.ones(1))
    (Seen(dense=False, sparse=False), Seen(dense=True, sparse=False))
    """
    if tensor is None:
        return Seen()
    return Seen(dense=not tensor.is_sparse, sparse=tensor.is_sparse)


class Bucket:
    """``mean_r`` of dense tensors of one dtype on one device, by one reduction.

    A rank that lacks a tensor puts in zeros. With flags two numbers for each tensor travel behind
    them: how many ranks have it dense, and how many have it sparse, which is not put in.

    Args:
        specs: Every tensor by its position in the caller's list.
        carried: Positions of those that are put in; of the others only the flags travel.
        has_flags: Whether flags travel.

    Attributes:
        positions: Those of all tensors.
        views: Where the tensors that are put in are kept, by position.
    """

    def __init__(
        self, specs: Mapping[int, Spec], carried: Collection[int], *, has_flags: bool = True
    ) -> None:
        first = next(iter(specs.values()))
        self.positions = tuple(specs)
        sizes = [specs[p].shape.numel() if p in carried else 0 for p in specs]
        flags = 2 * len(sizes) if has_flags else 0
        self._flat = torch.empty(sum(sizes) + flags, dtype=first.dtype, device=first.device)
        self._content, self._flags = torch.split(self._flat, [sum(sizes), flags])
        self.views: dict[int, Tensor] = {
            p: piece.as_strided(specs[p].shape, specs[p].stride)
            for p, piece in zip(specs, torch.split(self._content, sizes), strict=True)
            if p in carried
        }
        self._own: dict[int, Seen] = {}
        self._wait: Callable[[], None] | None = None
        self._divisor = 1

    @property
    def is_full(self) -> bool:
        """Whether every tensor has been put in."""
        return len(self._own) == len(self.positions)

    def fill(self, position: int, tensor: Tensor) -> Tensor:
        """Put in a tensor; return where it is now, itself if it does not travel here."""
        self._own[position] = seen_in(tensor)
        if position not in self.views or tensor.is_sparse:
            return tensor
        view = self.views[position]
        view.copy_(tensor)
        return view

    def begin(self, collectives: Collectives, kind: str) -> None:
        """Begin the reduction; what has not been put in is absent here."""
        own = [self._own.get(position, Seen()) for position in self.positions]
        for position, seen in zip(self.positions, own, strict=True):
            if position in self.views and not seen.dense:
                self.views[position].zero_()
        if len(self._flags):
            _write(self._flags, [seen.dense for seen in own] + [seen.sparse for seen in own])
        if self._is_half:
            # There the sum may overflow.
            self._flat.div_(collectives.size)
        else:
            self._divisor = collectives.size
        self._wait = collectives.begin_sum_(self._flat, kind)

    def end(self) -> Mapping[int, Tensor]:
        """Wait for the reduction and return the means of the tensors that travelled."""
        assert self._wait is not None
        self._wait()
        if self._divisor != 1:
            self._content.div_(self._divisor)
        return self.views

    def seen(self) -> dict[int, Seen]:
        """Return what any rank had; on an accelerator this waits for the reduction."""
        flags = [bool(number) for number in self._flags.tolist()]
        count = len(self.positions)
        pairs = zip(flags[:count], flags[count:], strict=True)
        return {p: Seen(*pair) for p, pair in zip(self.positions, pairs, strict=True)}

    @property
    def _is_half(self) -> bool:
        return self._flat.dtype in (torch.float16, torch.bfloat16)


def _write(flags: Tensor, values: Sequence[bool]) -> None:
    # A list would have to be copied to an accelerator, which is waited for.
    flags.zero_()
    dense = len(values) // 2
    if all(values[:dense]):
        flags[:dense].fill_(1)
        return
    for index, value in enumerate(values):
        if value:
            flags[index].fill_(1)
