"""How the entries of a tensor are distributed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from mlo.errors import ProgramError

BINS: Final = 32
_CHUNK: Final = 1 << 24
"""Entries that are looked at together, so that a tensor that fills a device can be counted."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many entries lie between each two edges.

    Attributes:
        edges: One more than there are bins, in ascending order.
        counts: Of each bin, in ``[edges[i], edges[i + 1])``; the last holds its upper edge too.
        not_finite: Entries that are infinite or undefined, which lie in no bin.
    """

    edges: list[float]
    counts: list[int]
    not_finite: int


def counted(values: Tensor, name: str) -> Counts:
    """Return the counts of 32 bins of equal width between the least and the largest entry.

    Of a sparse tensor only the stored entries count. All is computed where the tensor is; of what
    is on an accelerator, only edges and counts are fetched.

    Args:
        values: Real numbers of any shape.
        name: How a message calls them.

    Raises:
        ProgramError: They are complex, or of a tensor that is spread over processes.

    >>> found = counted(torch.tensor([0.0, 1.0, 1.0, float("nan")]), "C")
    >>> found.counts[0], found.counts[-1], found.not_finite, found.edges[-1]
    (1, 2, 1, 1.0)
    """
    chunks = torch.split(_entries(values, name), _CHUNK)
    edges = _edges(chunks)
    counts = torch.zeros(BINS + 1, dtype=torch.long, device=edges.device)
    one = counts.new_ones(())
    for chunk in chunks:
        # The first bin has no lower bound and the last no upper one: no entry lies beyond them.
        places = torch.bucketize(chunk, edges[1:-1], right=True)
        places = torch.where(torch.isfinite(chunk), places, BINS)
        counts.scatter_add_(0, places, one.expand_as(places))
    *inside, outside = counts.tolist()
    return Counts(edges=edges.tolist(), counts=inside, not_finite=outside)


def _entries(values: Any, name: str) -> Tensor:
    if not isinstance(values, Tensor):
        values = torch.as_tensor(values)
    if hasattr(values, "full_tensor"):
        # Gathering takes all processes, and not every one writes a record.
        raise ProgramError(
            f"histogram {name!r}: expected a whole tensor, got a DTensor; give its full_tensor() "
            "on every rank"
        )
    if values.is_complex():
        raise ProgramError(f"histogram {name!r}: expected real numbers, got {values.dtype}")
    entries: Tensor = values.detach()
    if entries.layout is torch.sparse_coo:
        entries = entries.coalesce().values()
    elif entries.layout is not torch.strided:
        entries = entries.values()
    entries = entries.reshape(-1)
    if entries.is_floating_point():
        return entries.float() if entries.element_size() < 4 else entries
    # Integers up to 2**53 are exact, where there is such a type.
    return entries.float() if entries.device.type == "mps" else entries.double()


def _edges(chunks: Sequence[Tensor]) -> Tensor:
    largest = torch.finfo(chunks[0].dtype).max
    lows, highs = zip(*map(_bounds, chunks), strict=True)
    low, high = torch.stack(lows).amin(), torch.stack(highs).amax()
    # Where there is no finite entry, they have crossed.
    low, high = torch.where(low > high, 0.0, low), torch.where(low > high, 0.0, high)
    margin = torch.where(low == high, torch.clamp(low.abs() / 2, min=0.5), 0.0)
    low, high = torch.clamp(low - margin, min=-largest), torch.clamp(high + margin, max=largest)
    share = torch.linspace(0, 1, BINS + 1, dtype=low.dtype, device=low.device)
    # A difference of the two could overflow. Rounding could turn two edges round.
    edges = torch.cummax(low * (1 - share) + high * share, dim=0).values
    return torch.clamp(edges, min=low, max=high)


def _bounds(chunk: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest finite entry, infinity and its negative if there is none."""
    if chunk.numel() == 0:
        return chunk.new_full((), torch.inf), chunk.new_full((), -torch.inf)
    finite = torch.isfinite(chunk)
    return (
        torch.where(finite, chunk, torch.inf).amin(),
        torch.where(finite, chunk, -torch.inf).amax(),
    )
