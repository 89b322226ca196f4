"""The table: every solver, its law, and what else it promises."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer

import mlo
from mlo import Graph, Problem, Response
from mlo.product import ProductName
from mlo.second_derivatives import Product
from mlo.testing.quadratic import UPPER, Quadratic, declare, random_quadratic
from mlo.testing.smooth import Smooth, declare_smooth, random_smooth
from mlo.testing.strategies import NESTED, SHAPES
from tests.contract.reference import (
    Expansion,
    Inverse,
    Prediction,
    predicted,
    series,
)

TERMS = 5
STEP = 0.01
DAMPING = 0.05
ALL_SHAPES = {**SHAPES, **NESTED}
# These are crossed with everything; the others with every solver.
MAIN_SHAPES = ("bilevel", "chain downwards", "both paths", "diamond", "nested, all read by all")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a response is made with.

    Attributes:
        rate: ξ, below the bound of every solver.
        product: For those that take one.
        step: Radius of a finite difference; one over the strength of a penalty.
    """

    rate: float
    product: ProductName | Product = "autograd"
    step: float = STEP


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One solver of the table.

    Attributes:
        name: How tests call it.
        make: Its response.
        law: ``(H, ξ, problem) ↦ W``, the matrix that it puts for ``H⁻¹``; None if W depends on
            the cotangent.
        products: Whether it takes a product.
        order: p if the error against its law is O(step^p); None if there is none.
        linear: Whether it is linear in its cotangent.
        odd: Whether ``-v`` is answered by minus the answer to ``v``.
        nests: Whether a problem that it solves may be part of another one's objective.
        advances: Whether it makes updates of its own.
        optimizer: Makes the live optimizer of the solved problem, or None.
    """

    name: str
    make: Callable[[Setting], Response]
    law: Callable[[Tensor, float, Problem], Tensor] | None = None
    products: bool = True
    order: int | None = None
    linear: bool = True
    odd: bool = True
    nests: bool = True
    advances: bool = False
    optimizer: Callable[[Sequence[Parameter], float], Optimizer] | None = None

    def __str__(self) -> str:
        return self.name


# The laws take ``(H, ξ, problem)``.


def inverted(hessian: Tensor, rate: float, problem: Problem) -> Tensor:
    return torch.linalg.inv(hessian)


def summed(hessian: Tensor, rate: float, problem: Problem) -> Tensor:
    return series(hessian, rate, TERMS)


def one_step(hessian: Tensor, rate: float, problem: Problem) -> Tensor:
    return rate * torch.eye(len(hessian), dtype=torch.float64)


def squared(hessian: Tensor, rate: float, problem: Problem) -> Tensor:
    return hessian @ series(hessian @ hessian, rate**2, TERMS)


def regularised(hessian: Tensor, rate: float, problem: Problem) -> Tensor:
    return torch.linalg.inv(hessian + DAMPING * torch.eye(len(hessian), dtype=torch.float64))


def nothing(hessian: Tensor, rate: float, problem: Problem) -> Tensor:
    return torch.zeros_like(hessian)


def real_update(hessian: Tensor, rate: float, problem: Problem) -> Tensor:
    """Return the derivative of one real step of the live optimizer, at a gradient of zero."""
    assert isinstance(problem.optimizer, Optimizer)
    moved = [_after(problem.optimizer, sign * 1e-4) for sign in (-1.0, 1.0, -2.0, 2.0)]
    by_one = (moved[0] - moved[1]) / 2e-4
    by_two = (moved[2] - moved[3]) / 4e-4
    return torch.diag((4 * by_one - by_two) / 3)


def _after(optimizer: Optimizer, gradient: float) -> Tensor:
    """Return all parameters after one step of a float64 copy with this gradient everywhere."""
    twin = copy.deepcopy(optimizer)
    parameters = [p for group in twin.param_groups for p in group["params"]]
    for parameter in parameters:
        state = twin.state[parameter]
        parameter.data = parameter.data.double()
        for key, value in state.items():
            state[key] = value.double() if isinstance(value, Tensor) else value
        parameter.grad = torch.full_like(parameter, gradient)
    twin.step()
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def experienced_adam(parameters: Sequence[Parameter], rate: float) -> Adam:
    """Return Adam after three steps by random gradients; the parameters have moved."""
    optimizer = Adam(parameters, lr=rate)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for parameter in parameters:
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = drawn.to(parameter.dtype)
        optimizer.step()
    optimizer.zero_grad()
    return optimizer


def sgd(parameters: Sequence[Parameter], rate: float) -> SGD:
    return SGD(parameters, lr=rate)


ENTRIES = [
    Entry(name="exact", make=lambda s: mlo.exact(product=s.product), law=inverted),
    Entry(name="cg", make=lambda s: mlo.cg(12, product=s.product), law=inverted),
    # A Krylov space depends on the vector, and so does the start of a power iteration.
    Entry(name="cg, truncated", make=lambda s: mlo.cg(2, product=s.product), linear=False),
    Entry(
        name="neumann",
        make=lambda s: mlo.neumann(TERMS, s.rate, product=s.product),
        law=summed,
    ),
    Entry(
        name="neumann auto",
        make=lambda s: mlo.neumann(TERMS, "auto", product=s.product),
        linear=False,
        odd=False,
    ),
    Entry(
        name="nystrom",
        make=lambda s: mlo.nystrom(12, DAMPING, product=s.product),
        law=regularised,
    ),
    Entry(name="identity", make=lambda s: mlo.identity(s.rate, product=s.product), law=one_step),
    Entry(
        name="finite difference",
        make=lambda s: mlo.finite_difference(s.step, rate=s.rate),
        law=one_step,
        products=False,
        order=2,
    ),
    Entry(
        name="warm-started",
        make=lambda s: mlo.warm_started(
            mlo.inverse.identity(s.rate), steps=TERMS, product=s.product
        ),
        law=summed,
    ),
    Entry(
        name="unrolled",
        make=lambda s: mlo.unrolled(TERMS),
        law=summed,
        products=False,
        advances=True,
        optimizer=sgd,
    ),
    Entry(
        name="value function",
        make=lambda s: mlo.value_function(1 / s.step, TERMS, rate=s.rate, tolerance=0.0),
        law=summed,
        products=False,
        order=1,
        linear=False,
        odd=False,
        nests=False,
    ),
    Entry(
        name="value function, central",
        make=lambda s: mlo.value_function(
            1 / s.step, TERMS, rate=s.rate, tolerance=0.0, central=True
        ),
        law=summed,
        products=False,
        order=2,
        linear=False,
        nests=False,
    ),
    Entry(
        name="stationarity penalty",
        make=lambda s: mlo.stationarity_penalty(1 / s.step, TERMS, rate=s.rate, tolerance=0.0),
        law=squared,
        products=False,
        order=1,
        linear=False,
        odd=False,
        nests=False,
    ),
    Entry(
        name="adaptive",
        make=lambda s: mlo.adaptive(product=s.product),
        law=real_update,
        nests=False,
        optimizer=experienced_adam,
    ),
    Entry(name="constant", make=lambda s: mlo.constant(), law=nothing, products=False),
]
LAWFUL = [entry for entry in ENTRIES if entry.law is not None]
DIFFERENTIATING = [entry for entry in ENTRIES if entry.name != "constant"]


@functools.cache
def program_of(
    shape: str,
    kind: type[Quadratic] | type[Smooth],
    *,
    sizes: tuple[int, ...] = (3, 4, 2, 3),
    condition: float = 5.0,
    seed: int = 0,
) -> Quadratic | Smooth:
    """Return a program with a direct term; by default sizes differ between its problems."""
    reads = ALL_SHAPES[shape]
    numbers = dict(zip(reads, sizes, strict=False))
    make = random_quadratic if kind is Quadratic else random_smooth
    return make(numbers, {**reads, UPPER: [*reads[UPPER], UPPER]}, condition=condition, seed=seed)


def columns(entries: Sequence[Entry]) -> list[tuple[Entry, ProductName]]:
    """Return every entry with each product that it takes."""
    names: tuple[ProductName, ...] = ("autograd", "finite_difference")
    return [(entry, name) for entry in entries for name in names[: 1 + entry.products]]


def declared(
    program: Quadratic | Smooth,
    entry: Entry,
    setting: Setting,
    dtype: torch.dtype = torch.float64,
) -> Graph:
    """Return the program with the entry for every problem that it may be used for.

    Problems within another one's objective have ``exact()`` where the entry cannot nest.
    """
    plain = _solved(program, dtype)
    inner = within(plain)
    modules = {name: copy.deepcopy(problem.module) for name, problem in plain.problems.items()}
    own = {n: replace(problem, module=modules[n]) for n, problem in plain.problems.items()}
    problems = [
        problem
        if name == UPPER
        else replace(
            problem,
            response=entry.make(setting) if entry.nests or name not in inner else mlo.exact(),
            optimizer=_live(problem, entry, setting.rate),
        )
        for name, problem in own.items()
    ]
    return Graph(*problems)


@functools.cache
def _solved(program: Quadratic | Smooth, dtype: torch.dtype) -> Graph:
    """Return the graph of a program, which nobody may change: solving takes longest of all."""
    make = declare_smooth if isinstance(program, Smooth) else declare
    return make(program, dtype=dtype)


def within(graph: Graph) -> set[str]:
    """Return the problems that are part of another one's objective."""
    return {n for names in graph.sweeps[UPPER].within.values() for n in names}


def _live(problem: Problem, entry: Entry, rate: float) -> Optimizer | None:
    if entry.optimizer is None:
        return None
    before = [p.detach().clone() for p in problem.module.parameters()]
    live = entry.optimizer(list(problem.module.parameters()), rate)
    with torch.no_grad():
        for parameter, value in zip(problem.module.parameters(), before, strict=True):
            parameter.copy_(value)
    return live


def law_of(found: Expansion, entry: Entry, graph: Graph, rate: float) -> Prediction:
    """Return what the entry's law says of a graph made by `declared`."""
    inner = within(graph)

    law = entry.law
    assert law is not None

    def inverse(name: str) -> Inverse:
        if name in inner and not entry.nests:
            return torch.linalg.inv
        return lambda hessian: law(hessian, rate, graph.problem(name))

    inverses: Mapping[str, Inverse] = {name: inverse(name) for name in found.lower}
    return predicted(found, inverses, found.lower if entry.advances else ())
