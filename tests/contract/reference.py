"""What every solver must answer: dense linear algebra in which a matrix W stands for ``H⁻¹``.

To first order a solver that puts W for ``H⁻¹`` makes of each solved problem the affine function
``θ = θ₀ - W ∂²g/∂θ∂a (a - a₀)``. Eliminating one problem after the other, the lowest first, leaves
the upper variables. In a nested program the same elimination gives the reduced Hessian. It is exact
where all losses are quadratic, and for any loss where no problem is nested.
"""

import functools
import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mlo.testing.quadratic import UPPER, Quadratic, spans_of
from mlo.testing.smooth import Smooth

Inverse = Callable[[Tensor], Tensor]
"""``H ↦ W``, both square."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Expansion:
    """All losses to second order around a program's solution, in all variables together.

    Attributes:
        spans: Where the variables of each problem stand, lowest level first, `UPPER` last.
        slopes: Gradient of each loss.
        forms: Hessian of each loss.
    """

    spans: Mapping[str, slice]
    slopes: Mapping[str, Tensor]
    forms: Mapping[str, Tensor]

    @property
    def lower(self) -> tuple[str, ...]:
        return tuple(name for name in self.spans if name != UPPER)


def loss_of(program: Quadratic | Smooth, name: str, values: Mapping[str, Tensor]) -> Tensor:
    if isinstance(program, Smooth):
        return program.loss(name, values)
    if name == UPPER:
        return program.upper.value(values)
    return program.lower[name].value(name, values)


def start_of(program: Quadratic | Smooth) -> Tensor:
    return program.base.start if isinstance(program, Smooth) else program.start


@functools.cache
def expansion(program: Quadratic | Smooth) -> Expansion:
    start = start_of(program)
    values = {**program.solution(start), UPPER: start}
    spans = spans_of({name: value.numel() for name, value in values.items()})
    joined = torch.cat(list(values.values()))

    def at(name: str) -> Callable[[Tensor], Tensor]:
        return lambda z: loss_of(program, name, {n: z[span] for n, span in spans.items()})

    return Expansion(
        spans=spans,
        slopes={name: torch.func.grad(at(name))(joined) for name in spans},
        forms={name: torch.func.jacrev(torch.func.grad(at(name)))(joined) for name in spans},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a solver answers.

    Attributes:
        jacobian: ``∂θ/∂upper`` of all lower problems, rows as in the expansion.
        gradient: The hypergradient.
        curvatures: (Reduced) Hessian of every lower problem.
    """

    jacobian: Tensor
    gradient: Tensor
    curvatures: Mapping[str, Tensor]


def predicted(
    found: Expansion, inverses: Mapping[str, Inverse], advancing: Collection[str] = ()
) -> Prediction:
    """Return what solvers with these inverses answer; those `advancing` move from the solution."""
    size = next(reversed(found.spans.values())).stop
    # Displacements of all variables are ``matrix d + offset``, d those of what is not solved yet.
    matrix = torch.eye(size, dtype=torch.float64)
    offset = torch.zeros(size, dtype=torch.float64)
    curvatures = {}
    for name in found.lower:
        own, form = found.spans[name], found.forms[name]
        moving = matrix[:, own]
        gradient = moving.T @ form @ matrix
        curvatures[name] = gradient[:, own]
        inverse = inverses[name](curvatures[name])
        row = -inverse @ gradient
        row[:, own] = 0
        if name in advancing:
            left = moving.T @ (found.slopes[name] + form @ offset)
            offset = offset - moving @ inverse @ left
        matrix = matrix.clone()
        matrix[:, own] = 0
        matrix = matrix + moving @ row
    total = matrix[:, found.spans[UPPER]]
    partial = found.slopes[UPPER] + found.forms[UPPER] @ offset
    return Prediction(
        jacobian=total[: found.spans[UPPER].start],
        gradient=total.T @ partial,
        curvatures=curvatures,
    )


def rate_for(found: Expansion) -> float:
    """Return ``0.7 / λ_max`` over the (reduced) Hessians of all lower problems."""
    solved = predicted(found, dict.fromkeys(found.lower, torch.linalg.inv))
    return 0.7 / max(float(torch.linalg.eigvalsh(h)[-1]) for h in solved.curvatures.values())


def series(hessian: Tensor, rate: float, terms: int) -> Tensor:
    """Return ``(I - (I - ξH)^terms) H⁻¹``, also where H is singular."""
    identity = torch.eye(len(hessian), dtype=torch.float64)
    left = [identity]
    for _ in range(terms - 1):
        left.append(left[-1] @ (identity - rate * hessian))
    return rate * torch.stack(left).sum(0)


def ratios(values: list[float]) -> list[float]:
    return [coarse / fine for coarse, fine in itertools.pairwise(values)]
