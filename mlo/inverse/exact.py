"""A dense eigendecomposition of the Hessian: the reference for small problems."""

import torch
from torch import Tensor

from mlo.context import Context
from mlo.errors import ResponseError
from mlo.inverse import arguments
from mlo.inverse.damped import damped
from mlo.inverse.protocol import HessianProduct, InverseProduct
from mlo.inverse.tolerance import default_tolerance, relative
from mlo.outcome import Outcome, Status, escalated
from mlo.tree import Params


def exact(*, damping: float = 0.0, max_parameters: int = 5000) -> InverseProduct:
    """``(H + damping·I)⁺ v`` from the dense Hessian: n products, O(n³) time, O(n²) memory.

    Eigenvalues that are zero to rounding are left out (the pseudo-inverse), and the part of `v`
    along them shows as residual. Negative ones are used as they are, and reported.

    Args:
        damping: Added to the Hessian's diagonal.
        max_parameters: Refuse larger problems instead of filling the memory.

    Raises:
        ResponseError: If an argument is out of range or the problem is too large.

    >>> from mlo import tree
    >>> w, _ = exact()(lambda v: tree.scaled(v, 4.0), {"x": torch.ones(2)}, Context(problem="p"))
    >>> w
    {'x': tensor([0.2500, 0.2500])}
    """
    arguments.damping("exact", damping)
    arguments.count("exact", "max_parameters", max_parameters)
    label = "exact()" if damping == 0 else f"exact(damping={damping:g})"

    def solve(hvp: HessianProduct, vector: Params, context: Context) -> tuple[Params, Outcome]:
        flat = _ravel(vector)
        size = flat.numel()
        if size > max_parameters:
            raise ResponseError(
                f"problem {context.problem!r}: exact() builds the dense Hessian of {size} "
                f"parameters, expected at most max_parameters={max_parameters}; use cg(...)"
            )
        product = damped(hvp)
        rows = [_ravel(product(_unravel(unit, vector))) for unit in torch.eye(size).to(flat)]
        hessian = torch.stack(rows)
        # Symmetric up to rounding, and up to the error of a finite-difference product.
        hessian = (hessian + hessian.T) / 2 + damping * torch.eye(size).to(flat)
        finite = torch.isfinite(hessian).all()
        # eigh raises on NaN; the answer is then reported as non-finite instead.
        values, basis = torch.linalg.eigh(torch.where(finite, hessian, torch.eye(size).to(flat)))
        nonzero = values.abs() > values.abs().amax() * size * torch.finfo(flat.dtype).eps
        coordinates = basis.T @ flat
        inverted = torch.where(nonzero, coordinates / torch.where(nonzero, values, 1.0), 0.0)
        answer = torch.where(finite, basis @ inverted, torch.nan)
        residual = relative(torch.where(nonzero, 0.0, coordinates).norm(), flat.norm())
        residual = torch.where(finite, residual, torch.nan)
        converged = residual <= default_tolerance(flat.norm())
        outcome = Outcome(
            solver=label,
            code=torch.where(converged, int(Status.CONVERGED), int(Status.ZERO_CURVATURE)),
            relative_residual=residual,
            products=size,
        )
        negative = (nonzero & (values < 0)).any()
        outcome = escalated(outcome, negative, Status.NEGATIVE_CURVATURE)
        return _unravel(answer, vector), escalated(outcome, ~finite, Status.NON_FINITE)

    settings = {"damping": damping, "max_parameters": max_parameters}
    return InverseProduct(label=label, solve=solve, products=None, linear=True, settings=settings)


def _ravel(vector: Params) -> Tensor:
    return torch.cat([t.reshape(-1) for t in vector.values()])


def _unravel(flat: Tensor, like: Params) -> Params:
    pieces = torch.split(flat, [t.numel() for t in like.values()])
    return {
        name: piece.reshape(t.shape) for (name, t), piece in zip(like.items(), pieces, strict=True)
    }
