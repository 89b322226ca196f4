"""Hypothesis strategies: random multilevel programs whose hypergradient is known.

    from mlo.testing import strategies

    @given(strategies.known(response=mlo.cg(steps=30)))
    def test_my_response(known):
        found = mlo.hypergradient(known.graph, known.target).gradient
        ...

They need Hypothesis (``pip install hypothesis``), which nothing else in `mlo` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mlo.graph import Graph
from mlo.response.protocol import Response
from mlo.testing.quadratic import UPPER, Quadratic, closed_form, declare, random_quadratic
from mlo.testing.smooth import Smooth, declare_smooth, random_smooth, smooth_closed_form
from mlo.tree import Params

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "mlo.testing.strategies draws programs with Hypothesis, which is not installed: "
        "pip install hypothesis"
    ) from error

Reads = Mapping[str, Sequence[str]]
"""What every problem reads beside itself, lowest level first, ``"upper"`` last."""

seeds = st.integers(min_value=0, max_value=2**31 - 1)
"""Seeds of random generators."""

sizes = st.integers(min_value=1, max_value=6)
"""Numbers of variables of one problem."""

conditions = st.floats(min_value=0.0, max_value=2.0).map(lambda exponent: 10.0**exponent)
"""Condition numbers from 1 to 100, evenly on a logarithmic scale."""

dtypes = st.sampled_from([torch.float32, torch.float64])
"""Precisions in which programs are computed."""

SHAPES: Mapping[str, Reads] = {
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
"""Shapes of graphs in which no problem is solved within another."""

NESTED: Mapping[str, Reads] = {
    # The optimum of c is part of what b minimises.
    "nested": {"c": ["b"], "b": ["c", UPPER], UPPER: ["b"]},
    "nested, all read by all": {"c": ["b", UPPER], "b": ["c", UPPER], UPPER: ["b", "c"]},
    "nested, upper read below": {"c": ["b", UPPER], "b": ["c"], UPPER: ["b"]},
    "nested twice": {"d": ["c", "b"], "c": ["d", "b"], "b": ["c", UPPER], UPPER: ["b"]},
    "nested pair": {"c": ["b"], "d": ["b"], "b": ["c", "d", UPPER], UPPER: ["b", "d"]},
}
"""Shapes in which a problem reads a lower one that reads it in turn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """A program at its solution, and its hypergradient.

    Attributes:
        graph: Every lower problem is solved, to the precision of its dtype.
        target: The problem to differentiate.
        gradient: The exact hypergradient in float64, keyed like the parameters of `target`.
        program: What the graph was declared from.
    """

    graph: Graph
    target: str
    gradient: Params
    program: Quadratic | Smooth


@st.composite
def quadratics(draw: st.DrawFn, reads: Reads, *, condition: float | None = None) -> Quadratic:
    """Draw quadratics of a given shape, with or without a direct term.

    Args:
        draw: Given by Hypothesis.
        reads: The shape, such as one of `SHAPES` or `NESTED`.
        condition: Condition number of lower Hessians; drawn if None.

    >>> from hypothesis import find, settings
    >>> quiet = settings(database=None)
    >>> list(find(quadratics(SHAPES["bilevel"]), lambda program: True, settings=quiet).lower)
    ['x']
    """
    drawn = _drawn(draw, reads, condition)
    return random_quadratic(drawn.sizes, drawn.reads, condition=drawn.condition, seed=drawn.seed)


@st.composite
def smooth(draw: st.DrawFn, reads: Reads, *, condition: float | None = None) -> Smooth:
    """Draw smooth programs that are no quadratics, of a given shape that is not nested.

    Args:
        draw: Given by Hypothesis.
        reads: The shape, such as one of `SHAPES`.
        condition: Condition number of the quadratic part of lower Hessians; drawn if None.

    >>> from hypothesis import find, settings
    >>> quiet = settings(database=None)
    >>> list(find(smooth(SHAPES["bilevel"]), lambda program: True, settings=quiet).bumps)
    ['x', 'upper']
    """
    drawn = _drawn(draw, reads, condition)
    return random_smooth(drawn.sizes, drawn.reads, condition=drawn.condition, seed=drawn.seed)


class _Drawn(NamedTuple):
    sizes: dict[str, int]
    reads: Reads
    condition: float
    seed: int


def _drawn(draw: st.DrawFn, reads: Reads, condition: float | None) -> _Drawn:
    direct = [UPPER] if draw(st.booleans(), label="direct term") else []
    return _Drawn(
        sizes={name: draw(sizes, label=f"size of {name}") for name in reads},
        reads={**reads, UPPER: [*reads[UPPER], *direct]},
        condition=draw(conditions, label="condition") if condition is None else condition,
        seed=draw(seeds, label="seed"),
    )


@st.composite
def acyclic_reads(draw: st.DrawFn) -> dict[str, list[str]]:
    """Draw what each of 2 to 6 problems reads, without a circle below the upper one.

    The order in which cotangents must flow is a random permutation of the levels. Some problems
    may not depend on the upper variables; everything is read by something.

    >>> from hypothesis import find, settings
    >>> find(acyclic_reads(), lambda reads: len(reads) == 2, settings=settings(database=None))
    {'n0': ['upper'], 'upper': ['n0']}
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
"""Quadratics of every shape in `SHAPES`, and of random ones of 2 to 6 levels."""

nested_programs = st.one_of(*(quadratics(reads) for reads in NESTED.values()))
"""Quadratics of every shape in `NESTED`."""

smooth_programs = st.one_of(
    *(smooth(reads) for reads in SHAPES.values()), acyclic_reads().flatmap(smooth)
)
"""Programs that are no quadratics, of every shape in `SHAPES` and of random ones."""


@st.composite
def known(
    draw: st.DrawFn,
    *,
    response: Response,
    among: st.SearchStrategy[Quadratic | Smooth] = programs,
    dtype: torch.dtype = torch.float64,
) -> Known:
    """Draw a program at its solution together with its exact hypergradient.

    Args:
        draw: Given by Hypothesis.
        response: Declared for every problem that responds.
        among: `programs`, `nested_programs`, `smooth_programs` or a strategy of one shape.
        dtype: Of the graph; the hypergradient is float64 always.

    >>> from hypothesis import find, settings
    >>> from mlo.response.implicit import exact
    >>> one = find(known(response=exact()), lambda known: True, settings=settings(database=None))
    >>> one.target, list(one.gradient)
    ('upper', ['tensors.0'])
    """
    program = draw(among, label="program")
    if isinstance(program, Quadratic):
        plain = declare(program)
        graph = declare(program, _everywhere(plain, response), dtype=dtype)
        gradient = closed_form(program, plain)
    else:
        plain = declare_smooth(program)
        graph = declare_smooth(program, _everywhere(plain, response), dtype=dtype)
        gradient = smooth_closed_form(program, plain)
    return Known(graph=graph, target=UPPER, gradient=gradient, program=program)


def _everywhere(graph: Graph, response: Response) -> dict[str, Response]:
    return dict.fromkeys(graph.sweeps[UPPER].flows, response)
