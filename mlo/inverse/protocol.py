"""What an inverse-Hessian product is: ``v ↦ H⁻¹ v`` from products ``v ↦ H v`` alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlo.context import Context
from mlo.errors import ResponseError
from mlo.outcome import Outcome
from mlo.tree import Params

HessianProduct = Callable[[Params], Params]
Solve = Callable[[HessianProduct, Params, Context], tuple[Params, Outcome]]
NOTHING_KNOWN = Context()
"""For a solver that is used by itself."""


@dataclass(frozen=True, kw_only=True)
class InverseProduct:
    """A named way to compute ``H⁻¹ v``; it knows nothing of levels, losses or modules.

    Attributes:
        label: How `explain` and outcomes call it.
        solve: ``(hvp, vector, context) -> (H⁻¹ vector, Outcome)``; it may overwrite its vector,
            which calling the value itself does not.
        products: Hessian-vector products of one solve at most, or None if that depends on the
            number of parameters.
        linear: Whether the answer is linear in the vector, to rounding.
        sharded: Whether vectors may be sharded, as it does no more with them than `mlo.tree` does.
        settings: What its factory was called with, by name.
    """

    label: str
    solve: Solve
    products: int | None
    linear: bool = False
    sharded: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self, hvp: HessianProduct, vector: Params, context: Context = NOTHING_KNOWN
    ) -> tuple[Params, Outcome]:
        """Return ``H⁻¹ vector`` and how the solve went."""
        return self.solve(hvp, {name: t.detach().clone() for name, t in vector.items()}, context)


def inverse_product_of(solver: InverseProduct | Solve) -> InverseProduct:
    """Return `solver`, a plain function wrapped under its own name.

    >>> def scaled(hvp, vector, context): ...
    >>> inverse_product_of(scaled).label
    'scaled'

    Raises:
        ResponseError: If it is no function.
    """
    if isinstance(solver, InverseProduct):
        return solver
    if not callable(solver):
        raise ResponseError(
            "solver must be an inverse-Hessian product such as mlo.inverse.cg(steps=10), or a "
            f"function (hvp, vector, context), got {type(solver).__name__}"
        )
    label = getattr(solver, "__name__", type(solver).__name__)
    return InverseProduct(label=label, solve=solver, products=None)
