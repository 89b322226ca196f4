"""Betty's `Config` against `mlo` responses.

| Betty | `mlo` |
|---|---|
| ``darts``, ``darts_alpha=R`` | ``finite_difference(radius=R, rate=1)``: it has no learning rate |
| ``neumann``, ``neumann_iterations=K``, ``neumann_alpha=a`` | ``neumann(terms=K + 1, rate=a)`` |
| ``cg``, ``cg_iterations=K`` | ``cg(steps=K)``; a right solver has no use for ``cg_alpha`` |
| ``sama``, Adam or AdamW | ``adaptive()``, which corrects the bias that Betty leaves |
| ``sama``, SGD | ``finite_difference(rate=1)``: no learning rate either |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import SGD, Adam, AdamW

from mlo.difference import FiniteDifference
from mlo.double_backward import Autograd
from mlo.errors import ResponseError, nearest
from mlo.response.adaptive import adaptive
from mlo.response.implicit import cg, neumann
from mlo.response.one_step import finite_difference
from mlo.response.protocol import Response

_TYPES = ("darts", "neumann", "cg", "sama")


@dataclass(frozen=True, kw_only=True)
class Method:
    """How Betty differentiates one solved problem.

    Attributes:
        type: Betty's name of it.
        options: Further fields of Betty's `Config`.
        rate: The response's own learning rate; None if it takes that of the optimizer, or none.
        damping: What the response adds to the diagonal of the Hessian, which Betty never does.
    """

    type: str
    options: Mapping[str, Any]
    rate: float | None = None
    damping: float = 0.0


def method_of(problem: str, response: Response) -> Method:
    """Return Betty's counterpart of a response.

    Raises:
        ResponseError: If Betty has none.

    >>> method_of("m", neumann(terms=5, rate=0.1))
    Method(type='neumann', options={'neumann_iterations': 4}, rate=0.1, damping=0.0)
    >>> method_of("m", cg(steps=3, tolerance=0.1))
    Traceback (most recent call last):
        ...
    mlo.errors.ResponseError: problem 'm': Betty's cg has no tolerance=0.1, got cg(steps=3)
    """
    solver, product = response.solver, response.product
    name = "" if solver is None else solver.label.partition("(")[0]
    settings = {} if solver is None else solver.settings
    if name == "identity" and isinstance(product, Autograd | FiniteDifference):
        radius = product.radius if isinstance(product, FiniteDifference) else 0.01
        return Method(type="darts", options={"darts_alpha": radius}, rate=settings["rate"])
    if response.label.startswith("adaptive(") and isinstance(product, Autograd | FiniteDifference):
        radius = product.radius if isinstance(product, FiniteDifference) else 0.01
        return Method(type="sama", options={"sama_adam_alpha": radius})
    if name not in ("neumann", "cg"):
        raise ResponseError(
            f"problem {problem!r}: Betty has no counterpart of response={response.label}; it has "
            "those of finite_difference (its darts), neumann, cg and adaptive (its sama)"
        )
    if not isinstance(product, Autograd):
        raise ResponseError(
            f"problem {problem!r}: Betty's {name} takes products by autograd only, got "
            f"{response.label}"
        )
    damping = settings.get("damping", 0.0)
    if name == "neumann":
        if isinstance(settings["rate"], str):
            raise ResponseError(
                f"problem {problem!r}: Betty's neumann takes a number as its rate, got "
                f"{response.label}"
            )
        options = {"neumann_iterations": settings["terms"] - 1}
        return Method(type="neumann", options=options, rate=settings["rate"], damping=damping)
    if settings["tolerance"] is not None:
        raise ResponseError(
            f"problem {problem!r}: Betty's cg has no tolerance={settings['tolerance']:g}, got "
            f"{response.label}"
        )
    return Method(type="cg", options={"cg_iterations": settings["steps"]}, damping=damping)


def response_of(problem: str, config: Any, optimizer: object = None) -> Response:
    """Return the response that computes what a Betty `Config` means.

    Args:
        problem: Name of the problem, for error messages.
        config: Its `Config`.
        optimizer: Its optimizer, on whose class the meaning of ``sama`` depends.

    Raises:
        ResponseError: If there is none.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(type="neumann", neumann_iterations=4, neumann_alpha=0.1)
    >>> response_of("m", config).label
    'neumann(terms=5, rate=0.1)'
    """
    if config.type == "darts":
        return finite_difference(radius=config.darts_alpha, rate=1.0)
    if config.type == "neumann":
        return neumann(terms=config.neumann_iterations + 1, rate=config.neumann_alpha)
    if config.type == "cg":
        return cg(steps=config.cg_iterations)
    if config.type == "sama" and isinstance(optimizer, Adam | AdamW):
        return adaptive(product="finite_difference")
    if config.type == "sama" and isinstance(optimizer, SGD):
        return finite_difference(rate=1.0)
    if config.type == "sama":
        raise ResponseError(
            f"problem {problem!r}: config.type 'sama' is read for Adam, AdamW and SGD, got "
            f"{type(optimizer).__name__}; for others Betty's own is wrong or missing"
        )
    raise ResponseError(
        f"problem {problem!r}: config.type must be one of {_TYPES} to be read, got "
        f"{config.type!r}{nearest(str(config.type), _TYPES)}"
    )
