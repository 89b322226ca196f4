"""Which solvers are compared on the simulated quadratic, with which steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from mlo.bench.quadratic_data import Instance
from mlo.bench.quadratic_peers import Peer, Steps, amigo, f2sa, soba, stocbio
from mlo.bench.quadratic_programs import Pace, calls_of_round, trained
from mlo.inverse.nystrom import nystrom
from mlo.inverse.warm_started import warm_started
from mlo.response.implicit import cg, implicit, neumann
from mlo.response.one_step import finite_difference, identity
from mlo.response.protocol import Response
from mlo.response.unrolled import unrolled
from mlo.response.value_function import value_function


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the comparison.

    Attributes:
        family: Which code runs, and whose steps.
        solver: Its name.
        calls: Oracle calls of one iteration.
        run: ``(instance, seed, calls) -> iterations``.
    """

    family: str
    solver: str
    calls: int
    run: Callable[[Instance, int, int], Steps]


def of_peer(peer: Peer, family: str) -> Entry:
    """Return a re-implemented solver as an entry.

    >>> of_peer(soba(step=0.1, outer_step=0.1), "anew").solver
    'SOBA'
    """

    def run(instance: Instance, seed: int, calls: int) -> Steps:
        return takewhile(lambda step: step[0] <= calls, peer.run(instance, seed))

    return Entry(family=family, solver=peer.name, calls=peer.calls, run=run)


def of_response(response: Response, pace: Pace) -> Entry:
    """Return a response of `mlo`, run by the engine, as an entry.

    >>> of_response(cg(steps=3), Pace(inner=0.1, outer=0.1)).calls
    7
    """

    def run(instance: Instance, seed: int, calls: int) -> Steps:
        return trained(instance, response, pace, seed=seed, calls=calls)

    return Entry(family="mlo", solver=response.label, calls=calls_of_round(response, pace), run=run)


PEERS: Final = (
    *(
        of_peer(peer, "anew")
        for peer in (
            soba(step=0.1, outer_step=0.1),
            stocbio(step=0.1, outer_step=0.1),
            amigo(step=0.01, outer_step=0.1),
            f2sa(step=0.1, outer_step=0.1),
        )
    ),
    *(
        of_peer(peer, "anew, tuned")
        for peer in (
            soba(
                step=0.4,
                linear_step=0.3,
                outer_step=1.15,
                exponent=0.0,
                outer_exponent=1.0,
                slowing=10.0,
            ),
            stocbio(step=0.3, outer_step=0.6, inner_steps=2, terms=5),
            amigo(step=0.1, outer_step=0.3, inner_steps=2),
            f2sa(step=0.1, outer_step=1.0, inner_steps=2),
        )
    ),
)
"""Published solvers: with their published steps, then with steps tuned here."""

_PACE = Pace(
    inner=0.4, outer=0.65, slowing=8.0, inner_exponent=0.0, outer_exponent=1.0, outer_momentum=0.5
)

MLO: Final = tuple(
    of_response(response, replace(_PACE, steps=steps))
    for response, steps in (
        (implicit(warm_started()), 1),
        (identity(), 1),
        (finite_difference(), 1),
        (neumann(terms=5), 1),
        (cg(steps=5, damping=0.1), 1),
        (implicit(nystrom(rank=5, damping=0.1)), 1),
        (value_function(steps=5), 1),
        (unrolled(steps=5), 5),
    )
)
"""Responses of `mlo`, all at the pace that was tuned for the first."""
