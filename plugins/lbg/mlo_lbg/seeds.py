"""Random numbers that are a function of a seed and leave the global state as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def spawn(seed: int, count: int) -> list[int]:
    """`count` seeds whose streams are independent of each other and of `seed`'s own.

    >>> spawn(0, 2) == spawn(0, 3)[:2], spawn(0, 1) == spawn(1, 1)
    (True, False)
    """
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(count)]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global random numbers follow `seed`; on leaving they continue as before.

    >>> with seeded(0):
    ...     first = torch.rand(1)
    >>> with seeded(0):
    ...     second = torch.rand(1)
    >>> bool(first == second)
    True
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
