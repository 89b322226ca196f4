"""What the published code of the bilevel benchmark reached, measured once with its tuned steps.

Published code of benchmark_bilevel (Dagréou et al., 2022, arXiv 2201.13409), JAX 0.10.2 on one CPU
thread, its own instance (seed 2442) and minibatch seed 1, steps from its configuration files, which
were tuned for the size `BIG` only. SOBA has no entry there and was run with SABA's steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Published:
    """One measured curve.

    Attributes:
        solver: Its name.
        calls: Oracle calls of one iteration, counted in its algorithm.
        start: ``‖∇h‖²`` at the start.
        reached: Iterations to ``‖∇h‖²``.
    """

    solver: str
    calls: int
    start: float
    reached: Mapping[int, float]

    def relative(self) -> dict[int, float]:
        """Return oracle calls to ``‖∇h‖²`` over its value at the start.

        >>> Published(solver="s", calls=4, start=2.0, reached={8: 1.0}).relative()
        {32: 0.5}
        """
        return {self.calls * k: value / self.start for k, value in self.reached.items()}

    def calls_to(self, level: float) -> int | None:
        """Return the calls at which the line through the points, in logarithms, meets `level`.

        None if the last point lies above; the first point if that lies below already.

        >>> Published(solver="s", calls=1, start=1.0, reached={10: 1e-1, 1000: 1e-3}).calls_to(1e-2)
        100
        """
        points = sorted(self.relative().items())
        for (left, above), (right, below) in pairwise(points):
            if below <= level < above:
                share = math.log(above / level) / math.log(above / below)
                return round(left * math.pow(right / left, share))
        return points[0][0] if points[0][1] <= level else None


PUBLISHED: Final[Mapping[str, tuple[Published, ...]]] = {
    "big": (
        Published(
            solver="SOBA",
            calls=4,
            start=11.55,
            reached={64: 1.84, 256: 0.523, 1024: 0.107, 4096: 9.3e-3, 16384: 1.1e-3},
        ),
        Published(
            solver="stocBiO",
            calls=22,
            start=11.55,
            reached={64: 0.112, 256: 7.1e-3, 1024: 6.6e-3, 1840: 3.2e-3},
        ),
        Published(
            solver="AmIGO",
            calls=22,
            start=11.55,
            reached={64: 0.099, 256: 3.1e-3, 1024: 1.5e-3, 1536: 6.0e-4},
        ),
        Published(solver="F2SA", calls=33, start=11.55, reached={64: 2.47, 256: 0.87, 704: 0.37}),
    ),
    "small": (
        Published(
            solver="SOBA",
            calls=4,
            start=144.0,
            reached={64: 23.0, 256: 6.2, 1024: 0.99, 4096: 0.44},
        ),
        Published(
            solver="stocBiO",
            calls=22,
            start=144.0,
            reached={64: 1.0, 256: 0.078, 1024: 0.072, 1152: 0.093},
        ),
        Published(
            solver="AmIGO",
            calls=22,
            start=144.0,
            reached={64: 0.87, 256: 0.081, 1024: 0.023, 1200: 0.019},
        ),
        Published(solver="F2SA", calls=33, start=144.0, reached={64: 29.0, 256: 8.4, 688: 3.0}),
    ),
}
"""By the name of the size."""
