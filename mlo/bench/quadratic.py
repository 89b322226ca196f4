"""``‖∇h‖²`` against oracle calls on the simulated quadratic of the public bilevel benchmark."""

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import torch
from torch import Tensor

from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.quadratic_data import BIG, SMALL, Instance, Size, draw
from mlo.bench.quadratic_entries import MLO, PEERS, Entry
from mlo.bench.quadratic_peers import Steps
from mlo.bench.quadratic_published import PUBLISHED, Published

LEVELS: Final = (1e-1, 1e-2, 1e-3, 1e-4)
"""Values of ``‖∇h‖²``, over its value at the start, of which it is asked when they are reached."""

CURVES: Final = "quadratic_curves.json"

NOTES: Final = (
    "An oracle call is one stochastic gradient, Hessian product or mixed product on one minibatch "
    "of 64; the gradient that a response builds its products on is counted.",
    "Calls to a level: from there on the mean of ‖∇h‖² over the seeds, relative to its start, "
    "stays at or below it. Each seed is an instance of its own with minibatches of its own.",
    "Published: the benchmark's code on its instance, measured once at a few iterations; calls to "
    "a level are interpolated in logarithms between them; the first is the least that is known.",
    "Our instances come from torch's generator, the published one from JAX's: the distribution is "
    "the same, the numbers are not.",
    "Anew: published solvers written again here, first with their published steps, then with steps "
    "tuned here. SOBA and warm_started were searched alike, falling steps allowed to both; only "
    "warm_started was also searched over momentum and several inner updates or products a round.",
    "stocBiO, AmIGO and F2SA were tuned on grids of 48 to 54 constant steps. All other mlo rows "
    "have warm_started's steps and were not tuned.",
    "Tuned on both sizes together, on seeds from 100 on; seeds from 0 on are reported.",
)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How one solver came down on one size, over seeds.

    Attributes:
        size: Name of the size.
        family: ``published``, ``anew``, ``anew, tuned`` or ``mlo``.
        solver: Its name.
        calls: Oracle calls of one iteration.
        points: Oracle calls at which it was looked at.
        values: ``‖∇h‖²`` over its value at the start: one list a seed, one entry a point.
        seconds: Mean time to the last point, without the metric; None if not measured here.
        start: Mean ``‖∇h‖²`` at the start.
    """

    size: str
    family: str
    solver: str
    calls: int
    points: list[int]
    values: list[list[float]]
    seconds: float | None
    start: float

    def mean(self) -> list[float]:
        """Return the mean over seeds at every point."""
        return [statistics.fmean(column) for column in zip(*self.values, strict=True)]

    def calls_to(self, level: float) -> int | None:
        """Return the calls from which on the mean over seeds is at most `level`; None if never.

        >>> Curve(size="s", family="mlo", solver="a", calls=1, points=[1, 2, 3, 4], start=1.0,
        ...       values=[[0.9, 0.1, 0.5, 0.1]], seconds=None).calls_to(0.2)
        4
        """
        found: int | None = None
        for point, value in zip(self.points, self.mean(), strict=True):
            if not value <= level:
                found = None
            elif found is None:
                found = point
        return found


def grid(calls: int) -> list[int]:
    """Return where a run of `calls` oracle calls is looked at: four points per doubling from 32.

    >>> grid(64)
    [32, 38, 45, 54, 64]
    """
    return [round(2 ** (k / 4)) for k in range(20, int(4 * math.log2(calls)) + 1)]


def trace(
    instance: Instance, steps: Steps, calls: int, points: Sequence[int]
) -> tuple[list[float], float]:
    """Return ``‖∇h‖²`` over its start after the last iteration before each point, and seconds.

    Args:
        instance: What is solved.
        steps: The iterations.
        calls: Oracle calls after which to stop.
        points: Oracle calls at which to look.
    """
    start = instance.start[1]
    seen: list[Tensor] = []
    latest, waiting = start, list(points)
    began = time.perf_counter()
    for spent, x in steps:
        while waiting and spent > waiting[0]:
            seen.append(latest)
            waiting.pop(0)
        if spent > calls:
            break
        latest = x
    seconds = time.perf_counter() - began
    seen += [latest] * len(waiting)
    values = instance.squared_norm(torch.stack(seen)) / instance.squared_norm(start)
    return values.tolist(), seconds


def measure(size: Size, entry: Entry, seeds: Sequence[int], calls: int) -> Curve:
    """Run one solver on one instance a seed."""
    points = grid(calls)
    values: list[list[float]] = []
    times: list[float] = []
    starts: list[float] = []
    for seed in seeds:
        instance = draw(size, seed=seed)
        starts.append(float(instance.squared_norm(instance.start[1])))
        line, seconds = trace(instance, entry.run(instance, seed, calls), calls, points)
        values.append(line)
        times.append(seconds)
    return Curve(
        size=size.name,
        family=entry.family,
        solver=entry.solver,
        calls=entry.calls,
        points=points,
        values=values,
        seconds=statistics.fmean(times),
        start=statistics.fmean(starts),
    )


def run(settings: Settings) -> Result:
    """Run every solver on both sizes, beside the published curves."""
    sizes = (SMALL,) if settings.quick else (BIG, SMALL)
    calls = 512 if settings.quick else 8192
    seeds = range(settings.seed, settings.seed + (2 if settings.quick else 5))
    rows: list[Row] = []
    curves: list[Curve] = []
    for size in sizes:
        rows += [_published_row(size, each) for each in PUBLISHED[size.name]]
        for entry in (*PEERS, *MLO):
            curves.append(measure(size, entry, seeds, calls))
            rows.append(_row(curves[-1]))
    published = [
        {"size": size.name, "solver": each.solver, "relative": each.relative()}
        for size in sizes
        for each in PUBLISHED[size.name]
    ]
    content = {"curves": [asdict(curve) for curve in curves], "published": published}
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / CURVES).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return Result(
        title=f"Simulated quadratic, {calls} oracle calls, {len(seeds)} seeds",
        rows=rows,
        notes=NOTES,
    )


CASE = Case(
    name="quadratic",
    summary="‖∇h‖² against oracle calls on the public simulated quadratic, published curves beside",
    run=run,
)


def _row(curve: Curve) -> Row:
    return {
        "size": curve.size,
        "family": curve.family,
        "solver": curve.solver,
        "calls an iteration": curve.calls,
        "start": curve.start,
        **{f"calls to {level:g}": curve.calls_to(level) for level in LEVELS},
        "at the end": curve.mean()[-1],
        "end at": curve.points[-1],
        "end, s.e.": _standard_error([line[-1] for line in curve.values]),
        "seconds": curve.seconds,
    }


def _published_row(size: Size, each: Published) -> Row:
    last = max(each.relative())
    return {
        "size": size.name,
        "family": "published",
        "solver": each.solver,
        "calls an iteration": each.calls,
        "start": each.start,
        **{f"calls to {level:g}": each.calls_to(level) for level in LEVELS},
        "at the end": each.relative()[last],
        "end at": last,
    }


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    return statistics.stdev(values) / math.sqrt(len(values))
