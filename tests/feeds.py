"""What a feed is drawn from and saved with in the tests of positions."""

import json
import random

import numpy as np
import torch

from mlo.checkpoint.plain import decode, encode
from mlo.feed import Feed

CPU = torch.device("cpu")


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def train():
    """Draw as training does between two batches."""
    torch.rand(3)
    np.random.rand(3)
    random.random()


def drawn(feed, count):
    batches = []
    for _ in range(count):
        batches.append(feed.draw())
        train()
    return batches


def fed(make):
    feed = Feed("x", make(), CPU)
    feed.check()
    return feed


def saved(feed):
    """Return the state as a file would hold it."""
    structure, tensors = encode(feed.state_dict())
    return decode(json.loads(json.dumps(structure)), {n: t.clone() for n, t in tensors.items()})


def same(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right
