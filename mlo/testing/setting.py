"""What the solver of a response was made with."""

from mlo.response.protocol import Response


def number_of(response: Response, option: str) -> float | None:
    """Return a numeric setting of its solver, None if it has none of that name that is a number.

    >>> from mlo.response.implicit import cg, neumann
    >>> number_of(cg(damping=0.01), "damping")
    0.01
    >>> number_of(neumann(rate="auto"), "rate") is None
    True
    """
    value = {} if response.solver is None else response.solver.settings
    number = value.get(option)
    return float(number) if isinstance(number, int | float) else None
