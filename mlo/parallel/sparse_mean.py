"""The mean over ranks of sparse tensors, which never become dense."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mlo.parallel.bucket import Spec
from mlo.parallel.collectives import Collectives


def sparse_mean(
    collectives: Collectives, tensors: Sequence[Tensor | None], specs: Sequence[Spec], kind: str
) -> list[Tensor]:
    """Return ``mean_r`` of sparse COO tensors, coalesced; None counts as zero.

    Entries of all ranks are gathered, filled up to the longest list: what travels is ``size`` times
    the most entries of a rank, and each rank adds them up itself, in the same order.
    """
    own = [None if t is None else t.coalesce() for t in tensors]
    counts = [[0, 0] if t is None else [t._nnz(), t.sparse_dim()] for t in own]
    device = specs[0].device
    gathered = collectives.gathered(torch.tensor(counts, device=device), kind)
    # Which entries there are is known to the host wherever tensors are sparse.
    everywhere = [each.tolist() for each in gathered]
    return [
        _mean_of_one(collectives, tensor, spec, [counts[i] for counts in everywhere], kind)
        for i, (tensor, spec) in enumerate(zip(own, specs, strict=True))
    ]


def _mean_of_one(
    collectives: Collectives, own: Tensor | None, spec: Spec, counts: list[list[int]], kind: str
) -> Tensor:
    most, sparse_dims = (max(numbers) for numbers in zip(*counts, strict=True))
    indices = torch.zeros(sparse_dims, most, dtype=torch.int64, device=spec.device)
    values = torch.zeros(most, *spec.shape[sparse_dims:], dtype=spec.dtype, device=spec.device)
    if own is not None:
        indices[:, : own._nnz()] = own.indices()
        # Before anything is added up, as half precision may overflow.
        values[: own._nnz()] = own.values() / collectives.size
    all_indices = collectives.gathered(indices, kind)
    all_values = collectives.gathered(values, kind)
    filled = [count for count, _ in counts]
    return torch.sparse_coo_tensor(
        torch.cat([part[:, :n] for part, n in zip(all_indices, filled, strict=True)], dim=1),
        torch.cat([part[:n] for part, n in zip(all_values, filled, strict=True)]),
        spec.shape,
        check_invariants=False,
    ).coalesce()
