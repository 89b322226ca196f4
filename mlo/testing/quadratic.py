"""Multilevel programs of strongly convex quadratics, whose hypergradient has a closed form.

Lower problems are eliminated one by one, the lowest first: what a problem minimises is a quadratic
in which everything below is an affine function of the rest. That covers nested programs too, where
a problem reads one below it that reads it in turn. What remains is one affine function of the upper
variables. It knows nothing of sweeps, orders or responses, which makes it an independent reference.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlo.graph import Graph
from mlo.problem import Loss, Problem
from mlo.response.protocol import Response
from mlo.tree import Params

UPPER = "upper"


class Blocks(nn.Module):
    """A vector in tensors of several shapes, so that a mistake in flattening shows.

    Args:
        size: Number of entries.
        dtype: Of all tensors.

    >>> [tuple(t.shape) for t in Blocks(6).tensors]
    [(2, 2), (), (1,)]
    """

    def __init__(self, size: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        rows = (size - 1) // 2
        shapes = [(rows, 2), (), (size - 1 - 2 * rows,)]
        tensors = [torch.zeros(shape, dtype=dtype) for shape in shapes]
        self.tensors = nn.ParameterList([t for t in tensors if t.numel()])

    def vector(self) -> Tensor:
        """Return all entries, shape ``(size,)``."""
        return torch.cat([t.reshape(-1) for t in self.tensors])

    def assign(self, vector: Tensor) -> None:
        """Set all entries from a vector of shape ``(size,)``."""
        with torch.no_grad():
            for name, tensor in self.named(vector).items():
                self.get_parameter(name).copy_(tensor)

    def named(self, vector: Tensor) -> Params:
        """Return a vector of shape ``(size,)`` keyed and shaped like the parameters."""
        tensors = dict(self.named_parameters())
        pieces = torch.split(vector, [t.numel() for t in tensors.values()])
        return {
            name: piece.reshape(tensor.shape)
            for (name, tensor), piece in zip(tensors.items(), pieces, strict=True)
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class LowerLoss:
    """``g(θ; a, b, ...) = ½ θᵀAθ + Σ_a θᵀ B_a a + cᵀθ + Σ_a (½ aᵀ Q_a a + q_aᵀ a)``.

    The last sum matters in a nested program only, where `a` is a function of θ.

    Attributes:
        curvature: ``A``, positive definite, shape ``(n, n)``.
        couplings: ``B_a`` for each problem `a` that it reads, shape ``(n, size of a)``.
        linear: ``c``, shape ``(n,)``.
        beside: ``Q_a`` and ``q_a`` for the problems solved within this one.
    """

    curvature: Tensor
    couplings: Mapping[str, Tensor]
    linear: Tensor
    beside: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def value(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of the problem called `name` at flat values, a 0-dim tensor."""
        own = values[name]
        cast = functools.partial(torch.Tensor.to, dtype=own.dtype)
        force = cast(self.linear) + sum(
            cast(coupling) @ values[above] for above, coupling in self.couplings.items()
        )
        total: Tensor = own @ cast(self.curvature) @ own / 2 + own @ force
        for other, (curvature, linear) in self.beside.items():
            held = values[other]
            total = total + held @ cast(curvature) @ held / 2 + cast(linear) @ held
        return total


@dataclass(frozen=True, kw_only=True, eq=False)
class UpperLoss:
    """``F(z) = ½ zᵀQz + qᵀz``, where ``z`` joins all that it reads.

    Attributes:
        reads: Names of the problems that it reads, in the order of ``z``; with `UPPER` among them
            there is a direct term.
        curvature: ``Q``, symmetric, of any sign.
        linear: ``q``.
    """

    reads: tuple[str, ...]
    curvature: Tensor
    linear: Tensor

    def value(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the loss at flat values, a 0-dim tensor."""
        joined = torch.cat([values[name] for name in self.reads])
        curvature, linear = self.curvature.to(joined.dtype), self.linear.to(joined.dtype)
        return joined @ curvature @ joined / 2 + linear @ joined


@dataclass(frozen=True, kw_only=True, eq=False)
class Quadratic:
    """A program of quadratics: lower problems, lowest level first, and one upper problem.

    Attributes:
        lower: Loss of each lower problem, by name, lowest level first. Where two read each other
            the lower one is solved within the other.
        upper: Loss of the problem called `UPPER`.
        start: Value of the upper variables, shape ``(size,)``.
    """

    lower: Mapping[str, LowerLoss]
    upper: UpperLoss
    start: Tensor

    def jacobian(self) -> Tensor:
        """Return ``∂θ*/∂upper`` of all lower problems, shape ``(total size, size of upper)``."""
        slope, _ = self._solved()
        return slope

    def solution(self, upper: Tensor) -> dict[str, Tensor]:
        """Return the optimum of each lower problem given the upper variables."""
        slope, offset = self._solved()
        sizes = [loss.linear.numel() for loss in self.lower.values()]
        return dict(zip(self.lower, torch.split(slope @ upper + offset, sizes), strict=True))

    def reduced_curvature(self, name: str) -> Tensor:
        """Return the Hessian of what a problem minimises, its inner problems solved away."""
        *_, last = _eliminations(_upto(self.lower, name), _sizes(self.lower, len(self.start)))
        return last.curvature

    def _solved(self) -> tuple[Tensor, Tensor]:
        *_, last = _eliminations(self.lower, _sizes(self.lower, len(self.start)))
        size = len(self.start)
        return last.matrix[:-size, -size:], last.offset[:-size]


class _Elimination(NamedTuple):
    """All variables ``z = matrix z + offset`` once some are solved for, and how the last was."""

    matrix: Tensor
    offset: Tensor
    curvature: Tensor


def _eliminations(
    lower: Mapping[str, LowerLoss], sizes: Mapping[str, int]
) -> Iterator[_Elimination]:
    """Solve for one problem after the other; the columns of solved variables become zero."""
    spans = spans_of(sizes)
    end = sum(sizes.values())
    matrix = torch.eye(end, dtype=torch.float64)
    offset = torch.zeros(end, dtype=torch.float64)
    for name, loss in lower.items():
        form, linear = quadratic_form(name, loss, spans, end)
        moving = matrix[:, spans[name]]
        gradient = moving.T @ form @ matrix
        constant = moving.T @ (form @ offset + linear)
        curvature = gradient[:, spans[name]]
        # Rows of the solved problem in terms of all that is not solved yet.
        row = -torch.linalg.solve(curvature, gradient)
        row[:, spans[name]] = 0
        shift = -torch.linalg.solve(curvature, constant)
        offset = offset + moving @ shift
        free = matrix.clone()
        free[:, spans[name]] = 0
        matrix = free + moving @ row
        yield _Elimination(matrix, offset, curvature)


def spans_of(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Return where each problem's variables stand if all are joined.

    >>> spans_of({"x": 3, "upper": 2})
    {'x': slice(0, 3, None), 'upper': slice(3, 5, None)}
    """
    ends = list(itertools.accumulate(sizes.values()))
    return {name: slice(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}


def quadratic_form(
    name: str, loss: LowerLoss, spans: Mapping[str, slice], size: int
) -> tuple[Tensor, Tensor]:
    """Return the Hessian and the linear term of a loss in all variables together."""
    form = torch.zeros(size, size, dtype=torch.float64)
    linear = torch.zeros(size, dtype=torch.float64)
    own = spans[name]
    form[own, own] = loss.curvature
    linear[own] = loss.linear
    for other, coupling in loss.couplings.items():
        form[own, spans[other]] = coupling
        form[spans[other], own] = coupling.T
    for other, (curvature, slope) in loss.beside.items():
        form[spans[other], spans[other]] = curvature
        linear[spans[other]] = slope
    return form, linear


def _sizes(lower: Mapping[str, LowerLoss], upper: int) -> dict[str, int]:
    return {**{name: loss.linear.numel() for name, loss in lower.items()}, UPPER: upper}


def _upto(lower: Mapping[str, LowerLoss], name: str) -> dict[str, LowerLoss]:
    names = list(lower)[: list(lower).index(name) + 1]
    return {n: lower[n] for n in names}


def random_quadratic(
    sizes: Mapping[str, int],
    reads: Mapping[str, Sequence[str]],
    *,
    condition: float = 10.0,
    seed: int = 0,
) -> Quadratic:
    """Return a random program whose lower Hessians have eigenvalues in ``[1, condition]``.

    In a nested program that holds for the innermost problems; the reduced Hessian of the others has
    eigenvalues above 1 too, which takes a larger ridge.

    Args:
        sizes: Number of variables of each problem, lowest level first, `UPPER` last.
        reads: What each loss reads; a lower problem reads itself without saying so. Where a problem
            reads one of a lower level that depends on it, the program is nested.
        condition: Condition number of every lower Hessian with more than one variable.
        seed: Seed of a generator of its own; the global one is not touched.

    >>> program = random_quadratic({"x": 3, "upper": 2}, {"x": ["upper"], "upper": ["x"]})
    >>> program.jacobian().shape
    torch.Size([3, 2])
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def positive_definite(size: int) -> Tensor:
        exponents = torch.rand(size, generator=generator, dtype=torch.float64)
        exponents[0], exponents[-1] = 0.0, 1.0
        basis, _ = torch.linalg.qr(normal(size, size))
        matrix: Tensor = basis * condition**exponents @ basis.T
        return (matrix + matrix.T) / 2

    lower: dict[str, LowerLoss] = {}
    for name, size in sizes.items():
        if name == UPPER:
            continue
        loss = LowerLoss(
            curvature=positive_definite(size),
            couplings={a: normal(size, sizes[a]) for a in reads[name] if a != name},
            linear=normal(size),
        )
        within = [a for a in reads[name] if a in lower and _depends(a, name, reads, lower)]
        if within:
            beside = {a: (positive_definite(sizes[a]), normal(sizes[a])) for a in within}
            loss = replace(loss, beside=beside)
        lower[name] = loss
        *_, last = _eliminations(lower, sizes)
        missing = 1 - float(torch.linalg.eigvalsh(last.curvature)[0])
        if within and missing > 0:
            ridge = missing * torch.eye(size, dtype=torch.float64)
            lower[name] = replace(loss, curvature=loss.curvature + ridge)
    total = sum(sizes[name] for name in reads[UPPER])
    square = normal(total, total)
    upper = UpperLoss(
        reads=tuple(reads[UPPER]), curvature=(square + square.T) / 2, linear=normal(total)
    )
    return Quadratic(lower=lower, upper=upper, start=normal(sizes[UPPER]))


def _depends(
    name: str, on: str, reads: Mapping[str, Sequence[str]], among: Mapping[str, object]
) -> bool:
    """Return whether the solution of `name` moves with `on`, through problems `among` only."""
    seen: set[str] = set()
    frontier = [name]
    while frontier:
        node = frontier.pop()
        if node == on:
            return True
        if node in among and node not in seen:
            seen.add(node)
            frontier.extend(reads[node])
    return False


def declare(
    program: Quadratic,
    responses: Mapping[str, Response] | None = None,
    *,
    dtype: torch.dtype = torch.float64,
) -> Graph:
    """Return the program as a graph, its lower problems solved.

    Args:
        program: The quadratics.
        responses: Response of each lower problem that is not to have the default.
        dtype: Of the parameters and of all arithmetic.

    >>> program = random_quadratic({"x": 3, "upper": 2}, {"x": ["upper"], "upper": ["x"]})
    >>> declare(program).sweeps["upper"].order
    ('x',)
    """
    sizes = {name: loss.linear.numel() for name, loss in program.lower.items()}
    problems = [
        Problem(
            name=name,
            module=Blocks(sizes[name], dtype),
            loss=_lower_loss(name, loss),
            reads=tuple(dict.fromkeys((name, *loss.couplings, *loss.beside))),
            response=(responses or {}).get(name),
        )
        for name, loss in program.lower.items()
    ]
    upper = Problem(
        name=UPPER,
        module=Blocks(len(program.start), dtype),
        loss=_upper_loss(program.upper),
        reads=program.upper.reads,
    )
    graph = Graph(*problems, upper)
    solve(program, graph)
    return graph


def solve(program: Quadratic, graph: Graph) -> None:
    """Set the upper variables to their start and every lower problem to its exact optimum."""
    values = {**program.solution(program.start), UPPER: program.start}
    for name, value in values.items():
        _blocks(graph, name).assign(value)


def closed_form(program: Quadratic, graph: Graph) -> Params:
    """Return ``d/du F(θ*(u), u)`` at the start, keyed like the upper parameters.

    >>> program = random_quadratic({"x": 3, "upper": 2}, {"x": ["upper"], "upper": ["x"]})
    >>> list(closed_form(program, declare(program)))
    ['tensors.0', 'tensors.1']
    """
    upper = program.start.clone().requires_grad_()
    loss = program.upper.value({**program.solution(upper), UPPER: upper})
    (gradient,) = torch.autograd.grad(loss, upper)
    return _blocks(graph, UPPER).named(gradient)


def _blocks(graph: Graph, name: str) -> Blocks:
    module = graph.problem(name).module
    assert isinstance(module, Blocks)
    return module


def _lower_loss(name: str, loss: LowerLoss) -> Loss:
    def lower(**modules: Blocks) -> Tensor:
        return loss.value(name, {n: module.vector() for n, module in modules.items()})

    return lower


def _upper_loss(loss: UpperLoss) -> Loss:
    def upper(**modules: Blocks) -> Tensor:
        return loss.value({name: module.vector() for name, module in modules.items()})

    return upper
