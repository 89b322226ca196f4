"""What solvers accept: one line names the argument, what came and what was expected."""

from numbers import Real

from mlo.errors import ResponseError


def count(solver: str, name: str, value: int) -> None:
    """Refuse `value` unless it is an integer >= 1.

    Raises:
        ResponseError: If it is not.

    >>> count("cg", "steps", 0)
    Traceback (most recent call last):
        ...
    mlo.errors.ResponseError: cg: steps must be an integer >= 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ResponseError(f"{solver}: {name} must be an integer >= 1, got {value!r}")


def whole(solver: str, name: str, value: int) -> None:
    """Refuse `value` unless it is an integer >= 0.

    Raises:
        ResponseError: If it is not.

    >>> whole("nystrom", "seed", 0)
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ResponseError(f"{solver}: {name} must be an integer >= 0, got {value!r}")


def positive(solver: str, name: str, value: float | None) -> None:
    """Refuse `value` unless it is None or a finite number > 0.

    Raises:
        ResponseError: If it is not.

    >>> positive("identity", "rate", None)
    """
    if value is not None and not (_is_number(value) and 0 < value < float("inf")):
        raise ResponseError(f"{solver}: {name} must be > 0, got {value!r}")


def damping(solver: str, value: float, *, may_be_zero: bool = True) -> None:
    """Refuse a damping that is no finite number >= 0, or > 0.

    Raises:
        ResponseError: If it is not.

    >>> damping("cg", 0.0)
    """
    if value is None:
        bound = ">= 0" if may_be_zero else "> 0"
        raise ResponseError(f"{solver}: damping must be {bound}, got None")
    check = non_negative if may_be_zero else positive
    check(solver, "damping", value)


def non_negative(solver: str, name: str, value: float | None) -> None:
    """Refuse `value` unless it is None or a finite number >= 0.

    Raises:
        ResponseError: If it is not.

    >>> non_negative("cg", "tolerance", 0.0)
    """
    if value is not None and not (_is_number(value) and 0 <= value < float("inf")):
        raise ResponseError(f"{solver}: {name} must be >= 0, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
