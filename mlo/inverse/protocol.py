"""What an inverse-Hessian product is: ``v ↦ H⁻¹ v`` from products ``v ↦ H v`` alone."""

from collections.abc import Callable
from dataclasses import dataclass

from mlo.context import Context
from mlo.outcome import Outcome
from mlo.tree import Params

HessianProduct = Callable[[Params], Params]
Solve = Callable[[HessianProduct, Params, Context], tuple[Params, Outcome]]


@dataclass(frozen=True, kw_only=True)
class InverseProduct:
    """A named way to compute ``H⁻¹ v``; it knows nothing of levels, losses or modules.

    Attributes:
        label: How `explain` and outcomes call it.
        solve: ``(hvp, vector, context) -> (H⁻¹ vector, Outcome)``.
        products: Hessian-vector products of one solve at most, or None if that depends on the
            number of parameters.
    """

    label: str
    solve: Solve
    products: int | None

    def __call__(
        self, hvp: HessianProduct, vector: Params, context: Context
    ) -> tuple[Params, Outcome]:
        """Return ``H⁻¹ vector`` and how the solve went."""
        return self.solve(hvp, vector, context)
