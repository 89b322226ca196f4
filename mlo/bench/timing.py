"""Timing several actions side by side: A B C, C B A, A B C, ..."""

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from mlo.bench.ratio import Ratio, quartiles, ratio
from mlo.device import synchronous

Action = Callable[[], object]
Samples = dict[str, list[float]]
"""Seconds of each action in each turn; the n-th entries of all actions were taken together."""

SHORTEST_SAMPLE = 2e-3
"""Seconds; shorter actions are called several times in a sample."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How often actions are timed.

    Attributes:
        warmup: Turns that are not counted.
        least: Turns at least.
        most: Turns at most.
        seconds: After the least, no turn starts later than this.
    """

    warmup: int = 3
    least: int = 9
    most: int = 41
    seconds: float = 20.0


QUICK = Sampling(warmup=1, least=2, most=2, seconds=0.0)
"""Enough to see that an action runs."""


def sampling_of(*, quick: bool) -> Sampling:
    """Return how often to time in a quick or in a full run."""
    return QUICK if quick else Sampling()


def interleaved(
    actions: Mapping[str, Action], *, device: torch.device, sampling: Sampling
) -> Samples:
    """Return the seconds of each action, measured turn by turn in alternating order.

    On a CPU they are process time, which other processes do not inflate; on an accelerator wall
    time between two synchronisations.

    >>> found = interleaved({"a": lambda: None}, device=torch.device("cpu"), sampling=QUICK)
    >>> len(found["a"])
    2
    """
    clock = time.process_time if synchronous(device) else time.perf_counter

    def once(action: Action, calls: int) -> float:
        _finish(device)
        start = clock()
        for _ in range(calls):
            action()
        _finish(device)
        return (clock() - start) / calls

    longest = [max(once(action, 1) for action in actions.values()) for _ in range(sampling.warmup)]
    calls = max(1, math.ceil(SHORTEST_SAMPLE / max(longest[-1], 1e-7)))
    samples: Samples = {name: [] for name in actions}
    started = time.perf_counter()
    was_enabled = gc.isenabled()
    gc.collect()
    # What is alive now is not searched again and again for garbage.
    gc.freeze()
    gc.disable()
    try:
        for turn in range(sampling.most):
            if turn >= sampling.least and time.perf_counter() - started > sampling.seconds:
                break
            # Whoever comes second finds the caches as the first left them, so turns alternate.
            for name in list(actions)[:: -1 if turn % 2 else 1]:
                samples[name].append(once(actions[name], calls))
            gc.collect()
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
    return samples


def against(samples: Samples, baseline: str) -> dict[str, Ratio]:
    """Return the ratio of every other action to the baseline, pair by pair.

    >>> print(against({"a": [1.0, 1.0], "b": [2.0, 2.0]}, "a")["b"])
    2 [2, 2]
    """
    base = samples[baseline]
    return {name: ratio(times, base) for name, times in samples.items() if name != baseline}


def milliseconds(seconds: list[float]) -> float:
    """Return the median in milliseconds, to four digits.

    >>> milliseconds([0.001, 0.002, 0.0030004])
    2.0
    """
    return float(f"{1000 * quartiles(seconds)[1]:.4g}")


def _finish(device: torch.device) -> None:
    if not synchronous(device):
        torch.accelerator.synchronize(device)
