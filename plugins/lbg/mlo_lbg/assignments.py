"""The learnable assignment of training examples to groups, C."""

import torch
from torch import Tensor, nn

from mlo.errors import MloError


class Assignments(nn.Module):
    """`C = softmax(L)`, one row of `(examples, K)` logits per training example.

    Rows stay on the simplex without projection, and every entry of a row moves. `L` starts at
    `scale · randn`: equal rows would put all examples in group 0. The gradient is sparse, so that
    with `torch.optim.SparseAdam` rows that are not in a batch do not move at all; a dense Adam
    would move them several times as far as their own step did.

    Args:
        num_examples: Rows, one for each training example.
        num_groups: K.
        scale: Standard deviation of the initial logits.

    Raises:
        MloError: If a count is below 1 or the scale is not positive.

    >>> rows = Assignments(num_examples=5, num_groups=2)(torch.tensor([4, 0]))
    >>> rows.shape, bool(torch.allclose(rows.sum(1), torch.ones(2)))
    (torch.Size([2, 2]), True)
    """

    def __init__(self, *, num_examples: int, num_groups: int, scale: float = 0.1) -> None:
        super().__init__()
        for name, count in (("num_examples", num_examples), ("num_groups", num_groups)):
            if count < 1:
                raise MloError(f"assignments: {name} must be >= 1, got {count}")
        if not 0 < scale < float("inf"):
            raise MloError(f"assignments: scale must be > 0, got {scale}")
        logits = scale * torch.randn(num_examples, num_groups)
        self.logits = nn.Embedding(num_examples, num_groups, sparse=True, _weight=logits)

    def forward(self, index: Tensor) -> Tensor:
        """`(batch,)` row numbers to `(batch, K)` probabilities."""
        rows: Tensor = self.logits(index)
        return rows.softmax(-1)

    @torch.no_grad()
    def all_rows(self) -> Tensor:
        """`(examples, K)` probabilities of every training example."""
        return self.logits.weight.softmax(-1)


class ClippedAssignments(nn.Module):
    """The literal reading: `C` itself is trained, and clipped to `[0, 1]` after each update.

    Only the entry that names a row's group ever has a gradient, so a row leaves its group only by
    that entry sinking below another that has not moved.

    Args:
        num_examples: Rows, one for each training example.
        num_groups: K.

    Raises:
        MloError: If a count is below 1.

    References:
        Eq. 1 of arXiv 2304.00486, which asks for entries in `[0, 1]` and a random start.

    >>> rows = ClippedAssignments(num_examples=5, num_groups=2)(torch.tensor([4, 0]))
    >>> bool(((rows >= 0) & (rows <= 1)).all())
    True
    """

    def __init__(self, *, num_examples: int, num_groups: int) -> None:
        super().__init__()
        for name, count in (("num_examples", num_examples), ("num_groups", num_groups)):
            if count < 1:
                raise MloError(f"assignments: {name} must be >= 1, got {count}")
        entries = torch.rand(num_examples, num_groups)
        self.entries = nn.Embedding(num_examples, num_groups, sparse=True, _weight=entries)

    def forward(self, index: Tensor) -> Tensor:
        """`(batch,)` row numbers to `(batch, K)` entries."""
        rows: Tensor = self.entries(index)
        return rows

    @torch.no_grad()
    def all_rows(self) -> Tensor:
        """`(examples, K)` entries of every training example."""
        return self.entries.weight.detach()

    @torch.no_grad()
    def project(self) -> None:
        """Clip every entry to `[0, 1]`; to be called after each update."""
        self.entries.weight.clamp_(0.0, 1.0)
