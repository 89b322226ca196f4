"""What updates that arrive late would miss in a table of which each row is seldom looked up."""

import math
from typing import Final

import torch

from mlo.bench.case import Case, Result, Row, Settings


def changed(rounds: float, batch: float, rows: float) -> float:
    """Return the expected share of rows that were in one of so many batches, drawn anew each time.

    >>> round(changed(1000, 10**6, 10**9), 3)
    0.632
    """
    return -math.expm1(rounds * math.log1p(-batch / rows))


def stale_drawn(delay: int, batch: float, rows: float) -> float:
    """Return the share of lookups of a row with an update on its way, rows drawn anew each time.

    An update arrives `delay` rounds late, so it is missed if the row is drawn again until then.

    >>> round(stale_drawn(1, 10, 1000), 6)
    0.01
    """
    return 1 - (1 - batch / rows) ** delay


def stale_shuffled(delay: int, batch: float, rows: float) -> float:
    """Return the same for epochs that are shuffled: only across their boundary, rounds before it.

    With E rounds an epoch a row is looked up again in less than d + 1 rounds with probability
    ``d (d + 1) / (2 E²)``.

    >>> stale_shuffled(1, 10, 1000)
    0.0001
    """
    epoch = rows / batch
    return delay * (delay + 1) / (2 * epoch**2)


def simulated_staleness(
    delay: int, batch: int, rows: int, *, epochs: int, is_shuffled: bool, seed: int
) -> float:
    """Return the share of lookups with an update on its way, counted over so many epochs."""
    generator = torch.Generator().manual_seed(seed)
    last = torch.full((rows,), -(10**9))
    missed = looked_up = 0
    for epoch in range(epochs):
        order = torch.randperm(rows, generator=generator)
        for turn in range(rows // batch):
            if is_shuffled:
                index = order[turn * batch : (turn + 1) * batch]
            else:
                index = torch.randperm(rows, generator=generator)[:batch]
            now = epoch * (rows // batch) + turn
            if epoch:
                missed += int((now - last[index] <= delay).sum())
                looked_up += batch
            last[index] = now
    return missed / looked_up


def run(settings: Settings) -> Result:
    """Compare formulas with a simulation, and give them for a billion rows."""
    rows, batch, epochs = (2000, 20, 4) if settings.quick else (20000, 200, 40)
    found: list[Row] = [
        {
            "batches": "shuffled epochs" if is_shuffled else "drawn anew",
            "delay (rounds)": delay,
            "stale, simulated": simulated_staleness(
                delay, batch, rows, epochs=epochs, is_shuffled=is_shuffled, seed=settings.seed
            ),
            "stale, formula": formula(delay, batch, rows),
            "stale, 1e9 rows": formula(delay, BATCH, ROWS),
        }
        for is_shuffled, formula in ((False, stale_drawn), (True, stale_shuffled))
        for delay in (1, 10)
    ]
    found += [
        {
            "batches": batches,
            "rounds between saves": rounds,
            "changed, 1e9 rows": share(rounds),
        }
        for batches, share in (
            ("drawn anew", lambda rounds: changed(rounds, BATCH, ROWS)),
            ("shuffled epochs", lambda rounds: min(1.0, rounds * BATCH / ROWS)),
        )
        for rounds in (100, 1000)
    ]
    return Result(title="Late updates and changed rows", rows=found, notes=NOTES)


ROWS: Final = 1e9
BATCH: Final = 1e6
NOTES: Final = (
    "Stale: share of the lookups of a row with an update on its way. Simulated with 20,000 rows in "
    "batches of 200, whose ratio is 10 times that of a batch of 1e6 among 1e9 rows.",
    "Changed: share of the rows that a save of changes alone must write.",
)

CASE = Case(
    name="communication_staleness",
    summary="share of lookups that late updates miss, and of rows that change between saves",
    run=run,
)
