"""A low-rank approximation of the Hessian, inverted in closed form."""

import torch
from torch import Tensor

from mlo import tree
from mlo.context import Context
from mlo.inverse import arguments
from mlo.inverse.damped import damped
from mlo.inverse.protocol import HessianProduct, InverseProduct
from mlo.inverse.sketch import gram, identity_like, orthonormal_rows
from mlo.inverse.tolerance import default_tolerance, relative
from mlo.outcome import Outcome, Status, escalated
from mlo.tree import Params


def nystrom(
    rank: int = 10, damping: float = 0.1, *, seed: int = 0, tolerance: float | None = None
) -> InverseProduct:
    """``(Ĥ + damping·I)⁻¹ v`` with ``Ĥ = HΩ (ΩᵀHΩ)⁻¹ ΩᵀH``, the Hessian seen through a sketch Ω.

    Ω has `rank` random orthonormal columns, the same at every call, so the answer is linear in `v`.
    With as many columns as parameters ``Ĥ = H``; with fewer, what Ω does not see is divided by the
    damping alone, so a small damping enlarges it. Ritz values of H in the span of Ω that are zero
    to rounding are left out, and so are negative ones, which are reported. The residual in the
    outcome is that of ``(H + damping·I) w = v``, from one product more.

    It holds ``rank`` vectors. On an accelerator the factorisation of the ``rank × rank`` matrix
    ``ΩᵀHΩ`` waits for the device once.

    Args:
        rank: Columns of Ω, one Hessian product each; at most the number of parameters is used.
        damping: Added to the Hessian's diagonal, > 0.
        seed: Seed of Ω; the global random numbers are not touched, and Ω is the same on every
            device.
        tolerance: Relative residual that counts as converged; if None, ``eps^(3/4)``.

    Raises:
        ResponseError: If an argument is out of range.

    References:
        Frangella, Tropp and Udell, 2021, arXiv 2110.02820; for hypergradients Hataya and Yamada,
        2023, arXiv 2302.09726.

    >>> solver = nystrom(rank=2, damping=1.0)
    >>> w, outcome = solver(lambda v: tree.scaled(v, 3.0), {"x": torch.ones(2).double()})
    >>> w, outcome.iterations
    ({'x': tensor([0.2500, 0.2500], dtype=torch.float64)}, 3)
    """
    arguments.count("nystrom", "rank", rank)
    arguments.damping("nystrom", damping, may_be_zero=False)
    arguments.whole("nystrom", "seed", seed)
    arguments.non_negative("nystrom", "tolerance", tolerance)
    label = f"nystrom(rank={rank}, damping={damping:g})"

    def solve(hvp: HessianProduct, vector: Params, context: Context) -> tuple[Params, Outcome]:
        del context
        vector = tree.constants(vector)
        columns = min(rank, sum(t.numel() for t in vector.values()))
        length = tree.norm(vector)
        if columns == 0:
            return vector, Outcome(solver=label, code=Status.CONVERGED, relative_residual=0.0)
        images, core = _seen_through(hvp, orthonormal_rows(vector, columns, seed))
        root, negative = _inverse_root(core)
        # Woodbury: with Ĥ = B Bᵀ, (Ĥ + ρI)⁻¹ v = [v - B (BᵀB + ρI)⁻¹ Bᵀ v] / ρ.
        small = root.T @ gram(images, images) @ root + damping * identity_like(root)
        lower, _ = torch.linalg.cholesky_ex(small)
        seen = gram(images, {name: t.unsqueeze(0) for name, t in vector.items()})
        weights = (root @ torch.cholesky_solve(root.T @ seen, lower)).squeeze(1)
        answer = {
            name: (t - torch.tensordot(weights.to(t.dtype), images[name], dims=1)).div_(damping)
            for name, t in vector.items()
        }
        # Not needed any more, and by far the most that is held.
        del images
        remainder = tree.minus(vector, damped(hvp, damping)(answer))
        residual = relative(tree.norm(remainder), length)
        limit = default_tolerance(length) if tolerance is None else tolerance
        outcome = Outcome(
            solver=label,
            code=torch.where(residual <= limit, int(Status.CONVERGED), int(Status.TRUNCATED)),
            relative_residual=residual,
            products=columns + 1,
        )
        outcome = escalated(outcome, negative, Status.NEGATIVE_CURVATURE)
        return answer, escalated(outcome, ~torch.isfinite(residual), Status.NON_FINITE)

    settings = {"rank": rank, "damping": damping, "seed": seed, "tolerance": tolerance}
    return InverseProduct(label=label, solve=solve, products=rank + 1, settings=settings)


def _seen_through(hvp: HessianProduct, rows: Params) -> tuple[Params, Tensor]:
    """Return ``HΩ``, written over the rows of Ω, and the symmetric matrix ``ΩᵀHΩ``."""
    product = damped(hvp)
    count = len(next(iter(rows.values())))
    columns = []
    for index in range(count):
        image = product({name: t[index] for name, t in rows.items()})
        # The rows before this one are images already; by symmetry they are not needed.
        below = gram(
            {name: t[index:] for name, t in rows.items()},
            {name: t.unsqueeze(0) for name, t in image.items()},
        )
        columns.append(torch.cat([below.new_zeros(index, 1), below]))
        for name, tensor in rows.items():
            tensor[index].copy_(image[name])
    lower = torch.cat(columns, dim=1)
    return rows, lower + lower.tril(-1).T


def _inverse_root(core: Tensor) -> tuple[Tensor, Tensor]:
    """Return R with ``R Rᵀ`` the pseudo-inverse of the positive part, and if there is a negative.

    NaN if `core` is not finite.
    """
    finite = torch.isfinite(core).all()
    # eigh raises on NaN; the answer is reported as non-finite instead.
    values, basis = torch.linalg.eigh(torch.where(finite, core, identity_like(core)))
    rounding = values.abs().amax() * len(core) * torch.finfo(core.dtype).eps
    kept = values > rounding
    root = basis * torch.where(kept, values, 1.0).rsqrt() * kept
    return torch.where(finite, root, torch.nan), (values < -rounding).any()
