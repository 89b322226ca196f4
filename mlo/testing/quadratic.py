"""Multilevel programs of strongly convex quadratics, whose hypergradient has a closed form.

All lower problems together solve one linear system, so the solutions are one differentiable
function of the upper variables. The closed form differentiates that function; it knows nothing of
sweeps, orders or responses, which makes it an independent reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlo.graph import Graph
from mlo.problem import Loss, Problem
from mlo.response.protocol import Response
from mlo.tree import Params

UPPER = "upper"


class Blocks(nn.Module):
    """A float64 vector in tensors of several shapes, so that a mistake in flattening shows.

    Args:
        size: Number of entries.

    >>> [tuple(t.shape) for t in Blocks(6).tensors]
    [(2, 2), (), (1,)]
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        rows = (size - 1) // 2
        shapes = [(rows, 2), (), (size - 1 - 2 * rows,)]
        tensors = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
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
    """``g(θ; a, b, ...) = ½ θᵀAθ + Σ_a θᵀ B_a a + cᵀθ``.

    Attributes:
        curvature: ``A``, positive definite, shape ``(n, n)``.
        couplings: ``B_a`` for each problem `a` that it reads, shape ``(n, size of a)``.
        linear: ``c``, shape ``(n,)``.
    """

    curvature: Tensor
    couplings: Mapping[str, Tensor]
    linear: Tensor


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
        return joined @ self.curvature @ joined / 2 + self.linear @ joined


@dataclass(frozen=True, kw_only=True, eq=False)
class Quadratic:
    """A program of quadratics: lower problems, lowest level first, and one upper problem.

    Attributes:
        lower: Loss of each lower problem, by name; they must not read each other in a circle.
        upper: Loss of the problem called `UPPER`.
        start: Value of the upper variables, shape ``(size,)``.
    """

    lower: Mapping[str, LowerLoss]
    upper: UpperLoss
    start: Tensor

    def jacobian(self) -> Tensor:
        """Return ``∂θ*/∂upper`` of all lower problems, shape ``(total size, size of upper)``."""
        matrix, coupling, _ = self._system()
        negative: Tensor = torch.linalg.solve(matrix, coupling)
        return -negative

    def solution(self, upper: Tensor) -> dict[str, Tensor]:
        """Return the optimum of each lower problem given the upper variables."""
        matrix, coupling, linear = self._system()
        joined = -torch.linalg.solve(matrix, coupling @ upper + linear)
        sizes = [loss.linear.numel() for loss in self.lower.values()]
        return dict(zip(self.lower, torch.split(joined, sizes), strict=True))

    def _system(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``M, B, c`` with ``M θ + B upper + c = 0``: every lower gradient is zero."""
        sizes = {name: loss.linear.numel() for name, loss in self.lower.items()}

        def block(row: LowerLoss, name: str, column: str, size: int) -> Tensor:
            if name == column:
                return row.curvature
            zero = torch.zeros(row.linear.numel(), size, dtype=torch.float64)
            return row.couplings.get(column, zero)

        rows = [
            torch.cat([block(loss, name, column, sizes[column]) for column in sizes], dim=1)
            for name, loss in self.lower.items()
        ]
        couplings = [block(loss, name, UPPER, len(self.start)) for name, loss in self.lower.items()]
        linear = [loss.linear for loss in self.lower.values()]
        return torch.cat(rows), torch.cat(couplings), torch.cat(linear)


def random_quadratic(
    sizes: Mapping[str, int],
    reads: Mapping[str, Sequence[str]],
    *,
    condition: float = 10.0,
    seed: int = 0,
) -> Quadratic:
    """Return a random program whose lower Hessians have eigenvalues in ``[1, condition]``.

    Args:
        sizes: Number of variables of each problem, lowest level first, `UPPER` last.
        reads: What each loss reads; a lower problem reads itself without saying so.
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

    lower = {
        name: LowerLoss(
            curvature=positive_definite(size),
            couplings={a: normal(size, sizes[a]) for a in reads[name] if a != name},
            linear=normal(size),
        )
        for name, size in sizes.items()
        if name != UPPER
    }
    total = sum(sizes[name] for name in reads[UPPER])
    square = normal(total, total)
    upper = UpperLoss(
        reads=tuple(reads[UPPER]), curvature=(square + square.T) / 2, linear=normal(total)
    )
    return Quadratic(lower=lower, upper=upper, start=normal(sizes[UPPER]))


def declare(program: Quadratic, responses: Mapping[str, Response] | None = None) -> Graph:
    """Return the program as a graph, its lower problems solved.

    Args:
        program: The quadratics.
        responses: Response of each lower problem that is not to have the default.

    >>> program = random_quadratic({"x": 3, "upper": 2}, {"x": ["upper"], "upper": ["x"]})
    >>> declare(program).sweeps["upper"].order
    ('x',)
    """
    sizes = {name: loss.linear.numel() for name, loss in program.lower.items()}
    problems = [
        Problem(
            name=name,
            module=Blocks(sizes[name]),
            loss=_lower_loss(name, loss),
            reads=(name, *loss.couplings),
            response=(responses or {}).get(name),
        )
        for name, loss in program.lower.items()
    ]
    upper = Problem(
        name=UPPER,
        module=Blocks(len(program.start)),
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
        solution = modules[name].vector()
        force = loss.linear + sum(
            coupling @ modules[above].vector() for above, coupling in loss.couplings.items()
        )
        return solution @ loss.curvature @ solution / 2 + solution @ force

    return lower


def _upper_loss(loss: UpperLoss) -> Loss:
    def upper(**modules: Blocks) -> Tensor:
        return loss.value({name: module.vector() for name, module in modules.items()})

    return upper
