"""Every case of `mlo bench`, in the order in which they run."""

from collections.abc import Sequence

from mlo.bench import (
    accuracy,
    cleaning,
    communication,
    communication_bias,
    communication_failures,
    communication_memory,
    communication_rows,
    communication_scaling,
    communication_staleness,
    compiled,
    lbg_groups,
    lbg_round,
    levels,
    overhead,
    quadratic,
    upper_step,
)
from mlo.bench.case import Case
from mlo.errors import ConfigError, nearest

CASES: tuple[Case, ...] = (
    upper_step.CASE,
    levels.CASE,
    lbg_round.CASE,
    lbg_groups.CASE,
    overhead.CASE,
    compiled.CASE,
    accuracy.CASE,
    quadratic.CASE,
    cleaning.CASE,
    communication.CASE,
    communication_bias.CASE,
    communication_scaling.CASE,
    communication_memory.CASE,
    communication_rows.CASE,
    communication_staleness.CASE,
    communication_failures.CASE,
)


def chosen(names: Sequence[str], cases: Sequence[Case] = CASES) -> tuple[Case, ...]:
    """Return the cases of these names in the order of the registry, or all if there are none.

    >>> chosen([]) == CASES
    True

    Raises:
        ConfigError: If no case has one of the names.
    """
    known = [case.name for case in cases]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"no benchmark is called {name!r}, expected one of {', '.join(known)}"
                f"{nearest(name, known)}"
            )
    return tuple(case for case in cases if not names or case.name in names)
