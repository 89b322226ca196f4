"""How often to save on many ranks, and what failures cost then.

Failures come at random, one clock for each rank. With saves that take δ, every T of work, a mean
time M between failures and a restart that takes R, the expected time of a piece of work is
``M e^(R/M) (e^((T + δ)/M) - 1)`` (Daly, 2006), whatever the piece. Least is lost near
``T ≈ √(2 δ M)`` (Young, 1974).
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.communication_cost import GIGABYTE
from mlo.bench.communication_memory import LAYOUTS
from mlo.bench.communication_models import MODELS

HOUR: Final = 3600.0
RANK_HOURS: Final = 54 * 24 * 16384 / 419
"""Between failures of one rank: 419 in 54 days of 16,384 H100 (Grattafiori et al., 2024)."""
WRITE: Final = 1 * GIGABYTE
"""Bytes a second that one node writes to shared storage; an assumption."""
RESTART: Final = 300.0
"""Seconds from a failure to the first new round; an assumption."""
NODE: Final = 8


def between_failures(ranks: int, rank_hours: float = RANK_HOURS) -> float:
    """Return the mean seconds between failures of any of the ranks.

    >>> round(between_failures(16384) / 3600, 1)
    3.1
    """
    return rank_hours * HOUR / ranks


def young(save: float, failures: float) -> float:
    """Return ``√(2 δ M)``, the seconds of work between saves that lose least, if δ is small.

    Source: Young, 1974, Communications of the ACM 17 (9).

    >>> young(2.0, 100.0)
    20.0
    """
    return math.sqrt(2 * save * failures)


def daly(save: float, failures: float) -> float:
    """Return ``√(2 δ M) [1 + ⅓ √(δ/2M) + ⅑ δ/2M] - δ``, or M if δ is 2 M or more.

    Source: Daly, 2006, Future Generation Computer Systems 22.

    >>> daly(2.0, 100.0) < young(2.0, 100.0)
    True
    """
    if save >= 2 * failures:
        return failures
    share = save / (2 * failures)
    return young(save, failures) * (1 + math.sqrt(share) / 3 + share / 9) - save


def lost(work: float, save: float, failures: float, restart: float = RESTART) -> float:
    """Return the share of time that is not progress: saving, work done twice, restarts.

    >>> lost(10.0, 0.0, 1e12, 0.0) < 1e-9
    True
    """
    whole = failures * math.exp(restart / failures) * math.expm1((work + save) / failures)
    return 1 - work / whole


def simulated(
    work: float, save: float, failures: float, restart: float = RESTART, *, count: int, seed: int
) -> float:
    """Return the same share in a run of so many failures, drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)

    def lives(number: int) -> Tensor:
        uniform = torch.rand(number, generator=generator, dtype=torch.float64)
        return -failures * torch.log1p(-uniform)

    alive = lives(count)
    progress = float(work * (alive / (work + save)).floor().sum())
    spent = float(alive.sum()) + count * restart
    # A restart may fail as well, and so may the next one.
    left = count
    while left:
        again = lives(left)
        again = again[again < restart]
        spent += float(again.sum())
        left = len(again)
    return 1 - progress / spent


def states() -> Mapping[str, tuple[float, bool]]:
    """Return the bytes of what is saved, and whether every node writes a part of it."""
    # Parameters and the two moments of Adam, in float32, written by rank 0.
    found = {name: (12.0 * make().parameters, False) for name, make in MODELS.items()}
    del found["Swin-T"]
    table = LAYOUTS[0].bytes(10**10)
    return {**found, "C of 1e10 rows": (table, True)}


def run(settings: Settings) -> Result:
    """Compute the intervals for every state and number of ranks."""
    rows: list[Row] = []
    count = 10**3 if settings.quick else 10**6
    for name, (size, is_shared) in states().items():
        for ranks in (8, 64, 512, 4096):
            nodes = ranks // NODE
            save = size / (WRITE * (nodes if is_shared else 1))
            failures = between_failures(ranks)
            interval = daly(save, failures)
            rows.append(
                {
                    "state": name,
                    "ranks": ranks,
                    "GB": size / GIGABYTE,
                    "hours between failures": failures / HOUR,
                    "seconds of a save": save,
                    "Young (minutes)": young(save, failures) / 60,
                    "Daly (minutes)": interval / 60,
                    "lost": lost(interval, save, failures),
                    "lost, simulated": simulated(
                        interval, save, failures, count=count, seed=settings.seed
                    ),
                    "lost, saving every 6 hours": lost(6 * HOUR, save, failures),
                }
            )
    return Result(title="How often to save, and what failures cost", rows=rows, notes=NOTES)


NOTES: Final = (
    f"One failure in {RANK_HOURS:,.0f} hours of a rank: 419 unexpected interruptions in 54 days of "
    "16,384 H100 (Grattafiori et al., 2024, arXiv 2407.21783).",
    f"Assumed: a node writes {WRITE / GIGABYTE:g} GB/s, a restart takes {RESTART:g} s. Rank 0 "
    "writes what all ranks hold; every node writes its part of C.",
    "COMPUTED, not measured: `lost` by Daly's formula, beside it failures drawn at random.",
)

CASE = Case(
    name="communication_failures",
    summary="how often to save on 8 to 4,096 ranks, and what failures cost",
    run=run,
)
