"""Loaders of every kind that a feed must be able to go on with."""

import functools
import random

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

ROWS = 10


def rows():
    return TensorDataset(torch.arange(ROWS))


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


class Augmented(Dataset):
    """Draws from all three global generators for each row."""

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        noise = [float(torch.rand(())), float(np.random.rand()), random.random()]
        return torch.tensor([float(row), *noise], dtype=torch.float64)


class OwnNoise(Dataset):
    """Draws for each row from generators that it is given."""

    def __init__(self, drawn):
        self.drawn = drawn

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return torch.tensor([float(row), float(torch.rand((), generator=self.drawn))])


class EveryEpochAnew(Sampler):
    """Draws the order of an epoch when it is begun, from NumPy's global generator."""

    def __iter__(self):
        return iter(np.random.permutation(ROWS).tolist())

    def __len__(self):
        return ROWS


class DrawnOneByOne(Sampler):
    """Draws batches one by one from a generator of its own."""

    def __init__(self):
        self.generator = np.random.default_rng(5)

    def __iter__(self):
        for _ in range(5):
            yield self.generator.integers(0, ROWS, size=3).tolist()

    def __len__(self):
        return 5


class DrawnGlobally(DrawnOneByOne):
    """Draws batches one by one from Python's global generator."""

    def __iter__(self):
        for _ in range(5):
            yield [random.randrange(ROWS) for _ in range(3)]


class Buffered(IterableDataset):
    """Shuffles through a buffer, by a generator of its own."""

    def __init__(self, drawn):
        self.drawn = drawn

    def __iter__(self):
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        buffer = []
        for row in range(start, 2 * ROWS, step):
            buffer.append(row)
            if len(buffer) == 4:
                yield buffer.pop(self.drawn.randrange(4))
        self.drawn.shuffle(buffer)
        yield from buffer


class Shuffled:
    """As mlo_lbg's Batches: the order is drawn late, from a generator that is an attribute."""

    def __init__(self, drawn=None):
        self.generator = drawn or generator()

    def __iter__(self):
        yield from torch.randperm(ROWS, generator=self.generator).split(3)


class Counted:
    """Seeds every epoch with a number that it counts."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        order = np.random.default_rng(self.epoch).permutation(ROWS)
        self.epoch += 1
        yield from torch.from_numpy(order).split(3)


class MadeLate:
    """Makes its generator in the first epoch."""

    def __iter__(self):
        if not hasattr(self, "generator"):
            self.generator = random.Random(4)
        for _ in range(4):
            yield torch.tensor([self.generator.random()])


class Slots:
    __slots__ = ("generator",)

    def __init__(self):
        self.generator = np.random.RandomState(4)

    def __iter__(self):
        for _ in range(4):
            yield torch.tensor(self.generator.rand(2))


class Subclassed(DataLoader):
    """May do anything, so that nothing is taken for granted."""

    def __iter__(self):
        for batch in super().__iter__():
            yield batch, torch.rand(1)


class SavesItself:
    """Offers what torchdata's StatefulDataLoader does."""

    def __init__(self):
        self.generator = generator()
        self._began = self._passed = None
        self._left = 0

    def state_dict(self):
        return {"began": self._began, "passed": self._passed}

    def load_state_dict(self, state):
        self.generator.set_state(state["began"])
        self._left = state["passed"]

    def __iter__(self):
        self._began, self._passed = self.generator.get_state(), self._left
        self._left = 0
        return self._batches(self._passed)

    def _batches(self, start):
        # The order is drawn late, from the state that load_state_dict has set.
        for batch in torch.randperm(ROWS, generator=self.generator).split(3)[start:]:
            self._passed += 1
            yield batch


def noisy(drawn, batch):
    return torch.stack([torch.as_tensor(row) for (row,) in batch]) + torch.rand(1, generator=drawn)


def closing_over(drawn):
    return lambda batch: noisy(drawn, batch)


def of_one_generator():
    drawn = generator()
    return DataLoader(OwnNoise(drawn), batch_size=3, shuffle=True, generator=drawn)


def of_one_generator_drawn_ahead():
    drawn = generator()
    sampler = RandomSampler(range(ROWS), replacement=True, num_samples=70, generator=drawn)
    return DataLoader(OwnNoise(drawn), batch_size=9, sampler=sampler)


def sampled(sampler, data=None, **options):
    return DataLoader(rows() if data is None else data, batch_size=3, sampler=sampler, **options)


def drawn_with_replacement(**options):
    return RandomSampler(range(ROWS), replacement=True, num_samples=75, **options)


LOADERS = {
    "list": lambda: [torch.tensor(i) for i in range(4)],
    "tuple": lambda: tuple(torch.tensor(i) for i in range(4)),
    "in order": lambda: DataLoader(rows(), batch_size=3),
    "shuffled": lambda: DataLoader(rows(), batch_size=3, shuffle=True),
    "one batch an epoch": lambda: DataLoader(rows(), batch_size=ROWS, shuffle=True),
    "short batch left out": lambda: DataLoader(rows(), batch_size=3, shuffle=True, drop_last=True),
    "row by row": lambda: DataLoader(rows(), batch_size=None, shuffle=True),
    "own generator": lambda: DataLoader(rows(), batch_size=3, shuffle=True, generator=generator()),
    "with replacement": lambda: sampled(drawn_with_replacement()),
    "with replacement, own generator": lambda: sampled(
        drawn_with_replacement(generator=generator())
    ),
    "weighted": lambda: sampled(WeightedRandomSampler(range(1, ROWS), 8)),
    "weighted, own generator": lambda: sampled(
        WeightedRandomSampler(range(1, ROWS), 8, generator=generator())
    ),
    "subset": lambda: sampled(SubsetRandomSampler([1, 3, 5, 7])),
    "distributed": lambda: sampled(DistributedSampler(rows(), num_replicas=2, rank=1)),
    "own sampler": lambda: sampled(EveryEpochAnew()),
    "own batch sampler": lambda: DataLoader(rows(), batch_sampler=DrawnOneByOne()),
    "batch sampler": lambda: DataLoader(
        rows(), batch_sampler=BatchSampler(RandomSampler(range(ROWS)), 4, drop_last=True)
    ),
    "augmented": lambda: DataLoader(Augmented(), batch_size=3, shuffle=True),
    "augmented by its own generator": lambda: DataLoader(
        OwnNoise(generator(8)), batch_size=3, shuffle=True
    ),
    "one generator for all": of_one_generator,
    "one generator for all, drawn ahead": of_one_generator_drawn_ahead,
    "collated by a closure": lambda: DataLoader(
        rows(), batch_size=3, shuffle=True, collate_fn=closing_over(generator(6))
    ),
    "collated by a partial": lambda: DataLoader(
        rows(), batch_size=3, collate_fn=functools.partial(noisy, generator(6))
    ),
    "stream": lambda: DataLoader(Buffered(random.Random(2)), batch_size=3),
    "stream, bare": lambda: Buffered(random.Random(2)),
    "iterable with a generator": Shuffled,
    "iterable with a count": Counted,
    "iterable with slots": Slots,
    "saves itself": SavesItself,
}
"""Each is resumed exactly, without a warning."""


ON_WORKERS = {
    "shuffled": lambda: DataLoader(rows(), batch_size=3, shuffle=True, num_workers=2),
    "augmented": lambda: DataLoader(Augmented(), batch_size=2, shuffle=True, num_workers=2),
    "own generator, drawn ahead": lambda: sampled(
        drawn_with_replacement(generator=generator()), Augmented(), num_workers=2
    ),
    "own sampler": lambda: sampled(EveryEpochAnew(), Augmented(), num_workers=2),
    "stream": lambda: DataLoader(Buffered(random.Random(2)), batch_size=3, num_workers=2),
}
