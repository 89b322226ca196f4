"""Multilevel programs of smooth, strongly convex losses that are no quadratics.

Second derivatives of a quadratic are the same everywhere and its third ones vanish, which hides
mistakes: a Hessian at the wrong point, a finite difference with the wrong radius. Here bumps
``log cosh`` are added to every loss. The reference solves the program by Newton's method with dense
Hessians and differentiates all stationarity conditions together, in dense form.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlo.graph import Graph
from mlo.problem import Loss, Problem
from mlo.response.protocol import Response
from mlo.testing.quadratic import (
    UPPER,
    Blocks,
    Quadratic,
    quadratic_form,
    random_quadratic,
    spans_of,
)
from mlo.tree import Params


@dataclass(frozen=True, kw_only=True, eq=False)
class Bumps:
    """``Σ_i log cosh(w_iᵀz + s_i)``, convex, where ``z`` joins what is read.

    Attributes:
        reads: Names of the problems in the order of ``z``.
        slopes: ``w``, shape ``(bumps, size of z)``.
        shifts: ``s``, shape ``(bumps,)``.
    """

    reads: tuple[str, ...]
    slopes: Tensor
    shifts: Tensor

    def value(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the sum at flat values, a 0-dim tensor."""
        joined = torch.cat([values[name] for name in self.reads])
        inner = self.slopes.to(joined.dtype) @ joined + self.shifts.to(joined.dtype)
        # log cosh x = |x| + log(1 + exp(-2|x|)) - log 2, written without the kink.
        return (inner + torch.nn.functional.softplus(-2 * inner) - math.log(2)).sum()


@dataclass(frozen=True, kw_only=True, eq=False)
class Smooth:
    """A program of quadratics with bumps; no lower problem is nested in another.

    Attributes:
        base: The quadratics.
        bumps: What is added to the loss of each problem, `UPPER` among them.
    """

    base: Quadratic
    bumps: Mapping[str, Bumps]

    def loss(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a problem at flat values, a 0-dim tensor."""
        if name == UPPER:
            return self.base.upper.value(values) + self.bumps[name].value(values)
        return self.base.lower[name].value(name, values) + self.bumps[name].value(values)

    def solution(self, upper: Tensor) -> dict[str, Tensor]:
        """Return the optimum of each lower problem given the upper variables."""
        spans = self._spans()
        values = self.base.solution(upper)
        joined = torch.cat([*values.values(), upper])
        # In some order of dependence each pass settles at least one more problem.
        for _ in self.base.lower:
            for name in self.base.lower:
                joined = self._minimised(name, joined)
        return {name: joined[spans[name]] for name in self.base.lower}

    def gradient(self) -> Tensor:
        """Return ``d/du F(θ*(u), u)`` at the start, shape ``(size of upper,)``."""
        start = self.base.start
        spans = self._spans()
        joined = torch.cat([*self.solution(start).values(), start])
        rows = [self._derivatives(n, joined)[1][spans[n]] for n in self.base.lower]
        conditions = torch.cat(rows)
        partial, _ = self._derivatives(UPPER, joined)
        lower = len(joined) - len(start)
        adjoint = torch.linalg.solve(conditions[:, :lower].T, partial[:lower])
        total: Tensor = partial[lower:] - conditions[:, lower:].T @ adjoint
        return total

    def _spans(self) -> dict[str, slice]:
        sizes = {name: loss.linear.numel() for name, loss in self.base.lower.items()}
        return spans_of({**sizes, UPPER: len(self.base.start)})

    def _derivatives(self, name: str, joined: Tensor) -> tuple[Tensor, Tensor]:
        """Return slope and Hessian of a loss in all variables together."""
        spans = self._spans()
        if name == UPPER:
            where = _positions(self.base.upper.reads, spans)
            form = torch.zeros(len(joined), len(joined), dtype=torch.float64)
            linear = torch.zeros_like(joined)
            form[where[:, None], where] = self.base.upper.curvature
            linear[where] = self.base.upper.linear
        else:
            form, linear = quadratic_form(name, self.base.lower[name], spans, len(joined))
        bumps = self.bumps[name]
        slopes = torch.zeros(len(bumps.shifts), len(joined), dtype=torch.float64)
        slopes[:, _positions(bumps.reads, spans)] = bumps.slopes
        tanh = (slopes @ joined + bumps.shifts).tanh()
        slope = form @ joined + linear + slopes.T @ tanh
        return slope, form + slopes.T @ ((1 - tanh**2)[:, None] * slopes)

    def _minimised(self, name: str, joined: Tensor) -> Tensor:
        """Return the joined variables with one problem at its minimum, by Newton's method."""
        own = self._spans()[name]
        for _ in range(100):
            slope, hessian = self._derivatives(name, joined)
            step = torch.zeros_like(joined)
            step[own] = torch.linalg.solve(hessian[own, own], slope[own])
            size = 1.0
            while size > 1e-3:
                tried, _ = self._derivatives(name, joined - size * step)
                if float(tried[own].norm()) <= (1 - size / 4) * float(slope[own].norm()):
                    break
                size /= 2
            # In the last digits nothing gets better, and the full step is right.
            joined = joined - (size if size > 1e-3 else 1.0) * step
            if float(step.norm()) <= 1e-14 * (1 + float(joined.norm())):
                break
        return joined


def _positions(reads: Sequence[str], spans: Mapping[str, slice]) -> Tensor:
    return torch.cat([torch.arange(spans[name].start, spans[name].stop) for name in reads])


def random_smooth(
    sizes: Mapping[str, int],
    reads: Mapping[str, Sequence[str]],
    *,
    condition: float = 10.0,
    seed: int = 0,
) -> Smooth:
    """Return a random program; see `mlo.testing.quadratic.random_quadratic` for the arguments.

    >>> program = random_smooth({"x": 3, "upper": 2}, {"x": ["upper"], "upper": ["x"]})
    >>> program.gradient().shape
    torch.Size([2])
    """
    generator = torch.Generator().manual_seed(seed)
    bumps = {}
    for name in sizes:
        read = tuple(dict.fromkeys([*([] if name == UPPER else [name]), *reads[name]]))
        total = sum(sizes[n] for n in read)
        slopes = torch.randn(4, total, generator=generator, dtype=torch.float64) / total**0.5
        shifts = torch.randn(4, generator=generator, dtype=torch.float64)
        bumps[name] = Bumps(reads=read, slopes=slopes, shifts=shifts)
    base = random_quadratic(sizes, reads, condition=condition, seed=seed)
    return Smooth(base=base, bumps=bumps)


def declare_smooth(
    program: Smooth,
    responses: Mapping[str, Response] | None = None,
    *,
    dtype: torch.dtype = torch.float64,
) -> Graph:
    """Return the program as a graph, its lower problems solved.

    Args:
        program: What to declare.
        responses: Response of each lower problem that is not to have the default.
        dtype: Of the parameters and of all arithmetic.

    >>> program = random_smooth({"x": 3, "upper": 2}, {"x": ["upper"], "upper": ["x"]})
    >>> declare_smooth(program).sweeps["upper"].order
    ('x',)
    """
    values = {**program.solution(program.base.start), UPPER: program.base.start}
    problems = []
    for name, value in values.items():
        module = Blocks(value.numel(), dtype)
        module.assign(value)
        loss = _loss(program, name)
        reads = program.bumps[name].reads
        response = (responses or {}).get(name)
        problems.append(
            Problem(name=name, module=module, loss=loss, reads=reads, response=response)
        )
    return Graph(*problems)


def smooth_closed_form(program: Smooth, graph: Graph) -> Params:
    """Return ``d/du F(θ*(u), u)`` at the start, keyed like the upper parameters.

    >>> program = random_smooth({"x": 3, "upper": 2}, {"x": ["upper"], "upper": ["x"]})
    >>> list(smooth_closed_form(program, declare_smooth(program)))
    ['tensors.0', 'tensors.1']
    """
    module = graph.problem(UPPER).module
    assert isinstance(module, Blocks)
    return module.named(program.gradient())


def _loss(program: Smooth, name: str) -> Loss:
    def loss(**modules: Blocks) -> Tensor:
        return program.loss(name, {n: module.vector() for n, module in modules.items()})

    return loss
