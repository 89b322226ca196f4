"""Random rows by seed, in the proportions of their classes."""

import torch
from torch import Tensor

from mlo_lbg.data.dataset import DataError, Examples


def stratified(classes: Tensor, count: int, *, seed: int, field: str) -> Tensor:
    """`count` rows, of which a class of share p has p · count, give or take one.

    Rows get the key (r + ½) / n, where r is their random rank among the n rows of their class, and
    those with the smallest keys are taken; so a smaller sample of the same seed is part of a larger
    one.

    Args:
        classes: `(rows,)` int64 class of each row.
        count: How many rows are taken.
        seed: Decides which.
        field: Name of `count` in an error.

    Returns:
        `(count,)` int64 row numbers in random order.

    Raises:
        DataError: If there are fewer rows than that, or fewer than one is asked for.

    >>> classes = torch.tensor([0] * 80 + [1] * 20)
    >>> torch.bincount(classes[stratified(classes, 10, seed=0, field="num_train")])
    tensor([8, 2])
    """
    rows = len(classes)
    if not 1 <= count <= rows:
        raise DataError(f"{field}: expected 1..{rows} as there are {rows} rows, got {count}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows, generator=generator)
    by_class = order[torch.argsort(classes[order], stable=True)]
    sizes = torch.bincount(classes)
    first = torch.cumsum(sizes, 0) - sizes
    grouped = classes[by_class]
    rank = torch.arange(rows) - first[grouped]
    key = torch.empty(rows, dtype=torch.float64)
    key[by_class] = (rank.to(torch.float64) + 0.5) / sizes[grouped]
    taken = order[torch.argsort(key[order], stable=True)[:count]]
    return taken[torch.randperm(count, generator=generator)]


def subset(examples: Examples, count: int | None, *, seed: int, field: str) -> Examples:
    """A `stratified` sample of `count` examples by their class; all of them for `None`.

    Raises:
        DataError: If there are fewer examples than that, or fewer than one is asked for.
    """
    if count is None:
        return examples
    return examples.subset(stratified(examples.targets, count, seed=seed, field=field))
