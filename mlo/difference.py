"""Products from first-order gradients only, by central differences."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real

import torch
from torch import Tensor

from mlo import tree
from mlo.device import synchronous
from mlo.errors import ResponseError
from mlo.forward_mode import separable_mixed
from mlo.inner import Inner, Upstream
from mlo.parallel.sharded_tensors import any_sharded, locals_of, of_all_parts
from mlo.second_derivatives import SecondDerivatives, flat, gradient_of, nested, scaled, summed
from mlo.separable import Weighted, scalar
from mlo.tree import Params


@dataclass(frozen=True, kw_only=True)
class FiniteDifference:
    """Central differences of first-order gradients, error O(radius²) on smooth losses.

    ``H v ≈ [∇g(θ + εv) - ∇g(θ - εv)] / 2ε`` with ``ε = radius / ‖v‖``. The weights themselves are
    never touched: the perturbed ones are new tensors, so nothing has to be restored. The mixed
    derivative of a separable loss takes a forward-mode pass instead, which is exact.

    Attributes:
        radius: Norm of the perturbation. At 0.01 the error on a smooth float32 network is about
            3e-4, where truncation and rounding balance.

    References:
        Liu, Simonyan and Yang, 2019, arXiv 1806.09055 (DARTS).
    """

    radius: float = 0.01
    evaluations: int = 2
    overhead: int = 0

    def __post_init__(self) -> None:
        """Check the radius."""
        if not isinstance(self.radius, Real) or not 0 < self.radius < float("inf"):
            raise ResponseError(f"finite difference: radius must be > 0, got {self.radius!r}")

    @property
    def label(self) -> str:
        """How `explain` and error messages call it."""
        return f"finite_difference(radius={self.radius:g})"

    def __call__(self, inner: Inner, solution: Params, upstream: Upstream, /) -> SecondDerivatives:
        """Return both maps at this point.

        Raises:
            ResponseError: If a parameter is in half precision, where the difference is noise.
        """
        if inner.parts:
            return summed([(w, self(part, solution, upstream)) for w, part in inner.parts])
        point = tree.constants(solution)
        above = {problem: tree.constants(params) for problem, params in upstream.items()}
        plain = inner.full_precision().first_order()

        def gradient() -> Params:
            variables = tree.leaves(point)
            loss = plain(variables, above)
            return tree.dense(gradient_of(loss, variables, sharded=inner.sharded))

        def hessian(vector: Params) -> Params:
            _check_precision(point)

            def at(moved: Params) -> Params:
                with inner.standing_at(moved) as standing:
                    variables = tree.leaves(standing)
                    loss = plain(variables, above)
                    return tree.dense(gradient_of(loss, variables, sharded=inner.sharded))

            return _difference(point, {k: t.clone() for k, t in vector.items()}, self.radius, at)

        def mixed(vector: Params, factor: float | Tensor = 1.0, /) -> Upstream:
            if inner.returns_weighted:
                separable = separable_mixed(inner, point, above, vector)
                if separable is not None:
                    return scaled(separable, factor)
            variables = inner.above_variables(above)
            inputs = flat(variables)
            weighted: set[bool] = set()

            def at(moved: Params) -> Params:
                # As variables, though nobody asks: a loss may look which parameters are trained.
                with inner.standing_at(moved) as standing:
                    value = plain.value(tree.leaves(standing), variables)
                    weighted.add(isinstance(value, Weighted))
                    loss = scalar(value)
                    if not loss.requires_grad or not inputs:
                        return {}
                    found = inner.sharded.gradients(loss, list(inputs.values()))
                return {key: g for key, g in zip(inputs, found, strict=True) if g is not None}

            is_known = inner.returns_weighted is not None
            moved = vector if is_known else {key: t.clone() for key, t in vector.items()}
            found = _difference(point, moved, self.radius, at, factor)
            if not is_known and True in weighted and not inner.sharded:
                # Seen too late to spare the difference, as before a loss has ever been evaluated.
                known = replace(inner, returns_weighted=True)
                return self(known, solution, upstream).mixed(vector, factor)
            _check_precision(point)
            return nested(inputs, [found.get(key) for key in inputs])

        return SecondDerivatives(gradient=gradient, hessian=hessian, mixed=mixed)


def _difference(
    point: Params,
    vector: Params,
    radius: float,
    gradient: Callable[[Params], Params],
    factor: float | Tensor = 1.0,
) -> Params:
    """Return ``factor [gradient(point + εv) - gradient(point - εv)] / 2ε``.

    The vector is overwritten.
    """
    base, moved = locals_of(point.values()), locals_of(vector[name] for name in point)
    there = {name: vector[name] for name in point}
    epsilon = radius / length_of(vector)
    # One buffer serves both sides: with it the peak is that of the vector alone.
    move_to_sum_(moved, base, epsilon)
    ahead = gradient(there)
    # To the other side of the base: lerp(a, b, 2) = a + 2 (b - a) = 2 b - a.
    torch._foreach_lerp_(moved, base, 2.0)
    behind = gradient(there)
    both = {name: ahead[name] for name in ahead if name in behind}
    return tree.scaled(tree.minus(both, behind), factor * (0.5 / epsilon))


def length_of(vector: Params) -> float | Tensor:
    """Return the norm, 1 for a zero vector: a number on a CPU, where it costs less than a tensor.

    A zero vector moves nothing, so that both sides agree and the answer is exactly zero.
    """
    norms = torch._foreach_norm(locals_of(vector.values()))
    if any_sharded(vector.values()):
        norms = of_all_parts(norms, vector.values()).unbind()
    if synchronous(norms[0].device):
        length = math.hypot(*map(float, norms)) or 1.0
        # Divided by infinity the radius would be zero; what comes of such a vector is no number.
        return math.nan if math.isinf(length) else length
    norm = torch.linalg.vector_norm(torch.stack(norms))
    return torch.where(norm > 0, norm, torch.ones_like(norm))


def move_to_sum_(vector: list[Tensor], base: list[Tensor], factor: float | Tensor) -> None:
    """Set ``vector ← base + factor * vector``, in one pass where `factor` is a number."""
    if isinstance(factor, Tensor):
        torch._foreach_mul_(vector, factor)
        torch._foreach_add_(vector, base)
        return
    for moved, start in zip(vector, base, strict=True):
        torch.add(start, moved, alpha=factor, out=moved)


_HALF = frozenset({torch.float16, torch.bfloat16})


def _check_precision(point: Params) -> None:
    for name, tensor in point.items():
        if tensor.dtype in _HALF:
            raise ResponseError(
                f"finite difference: parameter {name!r} is {tensor.dtype}, whose rounding "
                "hides the difference; keep parameters in float32 (autocast the forward "
                'pass) or use product="autograd"'
            )
