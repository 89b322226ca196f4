"""Random multilevel programs of quadratics, by shape."""

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from mlo.testing.quadratic import UPPER, Quadratic, random_quadratic

seeds = st.integers(min_value=0, max_value=2**31 - 1)
sizes = st.integers(min_value=1, max_value=6)
conditions = st.floats(min_value=0.0, max_value=2.0).map(lambda exponent: 10.0**exponent)

# For each shape, what every problem reads beside itself; lowest level first.
SHAPES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "bilevel": {"x": [UPPER], UPPER: ["x"]},
    # The highest lower problem reads the upper variables and is read by the one below it.
    "chain downwards": {"x": ["y"], "y": [UPPER], UPPER: ["x"]},
    # The lowest problem reads the upper variables and is read by the one above it.
    "chain upwards": {"x": [UPPER], "y": ["x"], UPPER: ["y"]},
    # Learning by grouping: gating network t, experts s, assignments above.
    "both paths": {"t": [UPPER], "s": ["t"], UPPER: ["t", "s"]},
    "diamond": {"x": [UPPER], "y": ["x"], "z": ["x"], UPPER: ["y", "z"]},
    "diamond downwards": {"x": ["y", "z"], "y": [UPPER], "z": [UPPER], UPPER: ["x"]},
}


@st.composite
def quadratics(
    draw: st.DrawFn, reads: Mapping[str, Sequence[str]], *, condition: float | None = None
) -> Quadratic:
    """A program of a given shape, with or without a direct term."""
    direct = [UPPER] if draw(st.booleans(), label="direct term") else []
    return random_quadratic(
        {name: draw(sizes, label=f"size of {name}") for name in reads},
        {**reads, UPPER: [*reads[UPPER], *direct]},
        condition=draw(conditions, label="condition") if condition is None else condition,
        seed=draw(seeds, label="seed"),
    )


@st.composite
def acyclic_reads(draw: st.DrawFn) -> dict[str, list[str]]:
    """What each of 2 to 6 problems reads, without a circle below the upper one.

    The order in which cotangents must flow is a random permutation of the levels. Some problems
    may not depend on the upper variables; everything is read by something.
    """
    names = [f"n{position}" for position in range(draw(st.integers(1, 5), label="lower"))]
    flow = draw(st.permutations(names), label="order of dependence")
    reads: dict[str, list[str]] = {}
    for position, name in enumerate(flow):
        candidates = [UPPER, *flow[:position]]
        least = 1 if position == 0 else 0
        reads[name] = draw(
            st.lists(st.sampled_from(candidates), min_size=least, unique=True), label=name
        )
    unread = [n for n in names if not any(n in reads[m] for m in names)]
    more = draw(st.lists(st.sampled_from(names), unique=True), label="read by the upper loss")
    return {**{n: reads[n] for n in names}, UPPER: list(dict.fromkeys([*unread, *more]))}


programs = st.one_of(
    *(quadratics(reads) for reads in SHAPES.values()), acyclic_reads().flatmap(quadratics)
)
