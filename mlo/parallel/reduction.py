"""The mean over ranks of a list of tensors, some of which some ranks do not have."""

from collections.abc import Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor

from mlo.device import synchronous
from mlo.parallel.bucket import Bucket, Seen, Spec, by_dtype, seen_in, spec_of
from mlo.parallel.collectives import Collectives
from mlo.parallel.failure import ParallelError
from mlo.parallel.sparse_mean import sparse_mean


class Form(IntEnum):
    """In which form some rank had a tensor when it was last looked at."""

    UNKNOWN = 0
    SPARSE = 1
    DENSE = 2


class Layout:
    """What is known, equally on all ranks, of the forms of the tensors of one list.

    Dense tensors are put into one buffer each time; of others it is asked first who has them.

    Args:
        specs: What the tensors look like.

    Attributes:
        forms: The form of each.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self.specs = dict(enumerate(specs))
        self.forms = [Form.UNKNOWN] * len(specs)

    @property
    def dense(self) -> list[int]:
        """Positions of the tensors known as dense."""
        return [p for p, form in enumerate(self.forms) if form is Form.DENSE]

    @property
    def is_dense(self) -> bool:
        """Whether all are."""
        return len(self.dense) == len(self.forms)

    def learn(self, seen: Mapping[int, Seen]) -> None:
        """Take down what all ranks have seen."""
        for position, (dense, sparse) in seen.items():
            if dense or sparse:
                self.forms[position] = Form.DENSE if dense else Form.SPARSE


class Reduction:
    """Means of lists of tensors over ranks, which remembers the form of the tensors of each list.

    Args:
        collectives: The operations.
        kind: Under which they are counted.
    """

    def __init__(self, collectives: Collectives, kind: str) -> None:
        self._collectives = collectives
        self._kind = kind
        self._layouts: dict[tuple[Spec, ...], Layout] = {}

    def layout(self, specs: Sequence[Spec]) -> Layout:
        """Return what is known of the tensors of lists that look like this."""
        key = tuple(specs)
        if key not in self._layouts:
            self._layouts[key] = Layout(key)
        return self._layouts[key]

    def mean(
        self, tensors: Sequence[Tensor | None], like: Sequence[Tensor] | None = None
    ) -> list[Tensor | None]:
        """Return the mean over ranks of each tensor, None counting as zero.

        One reduction for each dtype and device. It is None where it is None on every rank, and
        sparse where no rank has it dense.

        Args:
            tensors: Dense and sparse COO tensors.
            like: Tensors of the same shapes, dtypes and devices, also where there is None. Without
                them ranks must first tell each other what they have.

        Raises:
            ParallelError: If another rank has died or failed.
        """
        if not tensors:
            return []
        if like is None:
            specs, seen = described(self._collectives, tensors)
            return self._settled(tensors, specs, {}, seen)
        layout = self.layout([spec_of(tensor) for tensor in like])
        buckets = [Bucket(part, layout.dense) for part in by_dtype(layout.specs)]
        for bucket in buckets:
            for position in bucket.positions:
                tensor = tensors[position]
                if tensor is not None:
                    bucket.fill(position, tensor)
            bucket.begin(self._collectives, self._kind)
        return self.ended(tensors, layout, buckets)

    def ended(
        self, tensors: Sequence[Tensor | None], layout: Layout, buckets: Sequence[Bucket]
    ) -> list[Tensor | None]:
        """Return the means once buckets have begun that hold each tensor of the list once."""
        means: dict[int, Tensor] = {}
        for bucket in buckets:
            means.update(bucket.end())
        seen = self._seen(tensors, layout, buckets)
        layout.learn(seen)
        return self._settled(tensors, layout.specs, means, seen)

    def _seen(
        self, tensors: Sequence[Tensor | None], layout: Layout, buckets: Sequence[Bucket]
    ) -> dict[int, Seen]:
        """Return what ranks have of each tensor; an accelerator is asked only where it must be."""
        seen: dict[int, Seen] = {}
        for bucket in buckets:
            own = [tensors[position] for position in bucket.positions]
            free = synchronous(layout.specs[bucket.positions[0]].device)
            if free or not layout.is_dense or any(tensor is None for tensor in own):
                seen.update(bucket.seen())
                continue
            for position, tensor in zip(bucket.positions, own, strict=True):
                seen[position] = seen_in(tensor)
                if seen[position].sparse:
                    # The other ranks, which do not wait for the device, cannot get to know of it.
                    raise ParallelError(
                        f"tensor {position} of shape {tuple(layout.specs[position].shape)} is "
                        "sparse, expected dense as in the update before; on an accelerator a "
                        "gradient must keep its layout"
                    )
        return seen

    def _settled(
        self,
        tensors: Sequence[Tensor | None],
        specs: Mapping[int, Spec],
        means: Mapping[int, Tensor],
        seen: Mapping[int, Seen],
    ) -> list[Tensor | None]:
        """Return all means, given those that have been taken, and what ranks have of the others."""
        dense = {p: means[p] for p in specs if seen[p].dense and p in means}
        late = {p: specs[p] for p in specs if seen[p].dense and p not in means}
        for part in by_dtype(late):
            dense.update(self._dense_means(tensors, part))
        sparse: dict[int, Tensor] = {}
        scattered = {p: specs[p] for p in specs if seen[p].sparse}
        for part in by_dtype(scattered):
            own = [_sparse_or_none(tensors[position]) for position in part]
            found = sparse_mean(self._collectives, own, list(part.values()), self._kind)
            sparse.update(zip(part, found, strict=True))
        return [_sum(dense.get(p), sparse.get(p)) for p in specs]

    def _dense_means(
        self, tensors: Sequence[Tensor | None], specs: Mapping[int, Spec]
    ) -> dict[int, Tensor]:
        bucket = Bucket(specs, specs, has_flags=False)
        for position in specs:
            tensor = tensors[position]
            if tensor is not None and not tensor.is_sparse:
                bucket.fill(position, tensor)
        bucket.begin(self._collectives, self._kind)
        return dict(bucket.end())


def _sparse_or_none(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is not None and tensor.is_sparse else None


def _sum(dense: Tensor | None, sparse: Tensor | None) -> Tensor | None:
    if dense is None or sparse is None:
        return sparse if dense is None else dense
    return dense + sparse


_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
)
_MOST_DIMENSIONS = 16
_DESCRIPTION = 5 + _MOST_DIMENSIONS


def described(
    collectives: Collectives, tensors: Sequence[Tensor | None]
) -> tuple[dict[int, Spec], dict[int, Seen]]:
    """Return what tensors look like that this rank may not have, and who has them in which form.

    Ranks tell each other, by one small reduction on the host. A tensor that no rank has looks like
    an empty one.
    """
    own = torch.zeros(len(tensors), _DESCRIPTION, dtype=torch.int64)
    for row, tensor in zip(own, tensors, strict=True):
        if tensor is not None:
            dense, sparse = seen_in(tensor)
            # Numbers that are alike on all ranks that have it, so that the largest is theirs.
            numbers = [int(dense), int(sparse), int(tensor.device.type != "cpu")]
            numbers += [_DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape]
            row[: len(numbers)] = torch.tensor(numbers)
    collectives.largest_(own, "descriptions")
    specs: dict[int, Spec] = {}
    seen: dict[int, Seen] = {}
    for position, (dense, sparse, remote, dtype, dims, *shape) in enumerate(own.tolist()):
        empty = torch.empty(shape[:dims], dtype=_DTYPES[dtype], device="meta")
        device = collectives.device if remote else torch.device("cpu")
        specs[position] = Spec(empty.shape, empty.stride(), empty.dtype, device)
        seen[position] = Seen(dense=bool(dense), sparse=bool(sparse))
    return specs, seen
