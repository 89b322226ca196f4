"""The mixed derivative of a separable loss, by one forward-mode pass."""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mlo import tree
from mlo.inner import Inner, Upstream
from mlo.second_derivatives import flat, gradient_of, nested
from mlo.separable import Weighted
from mlo.tree import Params

# Published without types.
_dual: Callable[[Tensor, Tensor], Tensor] = forward_ad.make_dual
_unpacked: Callable[[Tensor], forward_ad.UnpackedDualTensor] = forward_ad.unpack_dual


def separable_mixed(
    inner: Inner, solution: Params, upstream: Upstream, vector: Params
) -> Upstream | None:
    """``Σ_i (∇ℓ_i·v) ∂w_i/∂a`` for a loss that returns `Weighted`, else None.

    Exact, at the cost of a forward pass with tangents and a backward pass of the weights. Returns
    None where that would not be the whole mixed derivative: the losses depend on the upstream
    problems too, or the weights on the problem's own parameters; where some operation of the losses
    has no forward-mode derivative; and where forward mode differentiates what the gradient does
    not, as under ``torch.no_grad()``, which is tested at the first use.
    """
    if inner.separability.holds is False:
        return None
    _load_rules()
    # The sweep takes the mean over ranks of what each finds for its own loss.
    ranks, inner = inner.ranks, inner.local()
    first = inner.separability.holds is None
    found = _separable_mixed(inner, solution, upstream, vector)
    if ranks is not None and first:
        # All ranks must go on in the same way, also one that has found nothing to try it on.
        holds = all(ranks.gathered(found is not None))
        inner.separability.holds = holds
        return found if holds else None
    return found


def _separable_mixed(
    inner: Inner, solution: Params, upstream: Upstream, vector: Params
) -> Upstream | None:
    above = {problem: tree.leaves(params) for problem, params in upstream.items()}
    inputs = flat(above)
    with forward_ad.dual_level(), torch.enable_grad():
        dual = {
            name: _dual(tensor.detach(), vector[name].detach()) for name, tensor in solution.items()
        }
        try:
            loss = inner.value(dual, above)
        except (NotImplementedError, RuntimeError):
            # Also a loss that takes derivatives itself. A mistake of its own comes up again.
            return None
        if not isinstance(loss, Weighted) or _is_entangled(loss):
            return None
        tangent = _unpacked(loss.losses).tangent
        if tangent is None or not loss.weights.requires_grad:
            return {}
        # What is differentiated backwards is linear in the tangent and holds it constant.
        derivative = loss.combined(tangent.detach())
        size = loss.combined(tangent.detach().abs()).abs()
    if inner.separability.holds is None:
        slope = _slope(inner, solution, upstream, vector)
        error = (slope - derivative.detach()).abs()
        inner.separability.holds = bool(error <= torch.finfo(error.dtype).eps ** 0.5 * size)
        if not inner.separability.holds:
            return None
    found = torch.autograd.grad(derivative, list(inputs.values()), allow_unused=True)
    return nested(inputs, found)


def _slope(inner: Inner, solution: Params, upstream: Upstream, vector: Params) -> Tensor:
    """Return the derivative of the weighted losses along the vector, by a backward pass."""
    variables = tree.leaves(solution)
    held = {problem: tree.constants(params) for problem, params in upstream.items()}
    with torch.enable_grad():
        loss = inner.value(variables, held)
        assert isinstance(loss, Weighted)
        gradient = tree.dense(gradient_of(loss.combined(loss.losses), variables))
    return tree.dot(gradient, vector)


def _is_entangled(loss: Weighted) -> bool:
    """Return whether losses read upstream variables, or weights the solution."""

    def reads_upstream(tensor: Tensor | None) -> bool:
        return tensor is not None and tensor.requires_grad

    weights_move = _unpacked(loss.weights).tangent is not None
    return weights_move or reads_upstream(loss.losses) or reads_upstream(loss.rest)


@functools.cache
def _load_rules() -> None:
    """Let torch compile its forward-mode rules, which warns of its own deprecated compiler."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        _dual(torch.zeros(()), torch.zeros(()))
