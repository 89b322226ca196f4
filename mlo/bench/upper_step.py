"""One upper step and one whole round against a hand-written loop and other libraries."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mlo.bench import by_hand, engines, peers
from mlo.bench.case import Case, Cell, Result, Row, Settings
from mlo.bench.memory import MIB, extra_peak, in_new_process
from mlo.bench.programs import PROGRAMS, RATE, Parts, Shape
from mlo.bench.timing import against, interleaved, milliseconds, sampling_of
from mlo.bench.variant import Steps, check_equal, gradient_of_round
from mlo.response.implicit import cg, neumann
from mlo.response.one_step import finite_difference
from mlo.response.protocol import Response

HAND, MLO = "by hand", "mlo"
STEP, ROUND, MEMORY = "upper step", "round", "peak memory"
"""What is measured."""
PRODUCTS = 5
DAMPING = 1.0
"""Far above any negative curvature, so that every solver takes all its steps."""
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Relative distance of two hypergradients that count as equal."""

Make = Callable[[Parts], Steps]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to differentiate the lower problem, for every variant.

    Attributes:
        response: For `mlo`.
        by_hand: For the hand-written loop.
        betty: Options of Betty's ``Config``.
        betty_is_equal: Whether Betty computes the same hypergradient, so that it can be checked.
        torchopt: For TorchOpt, or None if it has no such method.
        rounding: Factor on the float32 tolerance: two finite differences that round the perturbed
            weights differently differ by what any one of them is off.
    """

    response: Response
    by_hand: by_hand.Indirect
    betty: Mapping[str, Any]
    betty_is_equal: bool = False
    torchopt: Make | None = None
    rounding: float = 1.0


METHODS: Mapping[str, Method] = {
    "finite difference": Method(
        response=finite_difference(radius=by_hand.RADIUS),
        by_hand=by_hand.finite_difference,
        betty={"type": "darts", "darts_alpha": by_hand.RADIUS},
        rounding=30.0,
    ),
    f"Neumann K={PRODUCTS}": Method(
        response=neumann(terms=PRODUCTS + 1),
        by_hand=by_hand.neumann(PRODUCTS),
        betty={"type": "neumann", "neumann_iterations": PRODUCTS, "neumann_alpha": RATE},
        betty_is_equal=True,
    ),
    f"CG K={PRODUCTS}": Method(
        # Tolerance 0: nobody may stop early.
        response=cg(steps=PRODUCTS, damping=DAMPING, tolerance=0.0),
        by_hand=by_hand.cg(PRODUCTS, DAMPING),
        betty={"type": "cg", "cg_iterations": PRODUCTS, "cg_alpha": 1.0},
        torchopt=lambda parts: peers.torchopt_cg(parts, PRODUCTS, DAMPING),
    ),
}

NOTES = (
    "Ratios to the hand-written loop, medians [quartiles] of pairs timed in alternation; below 1 "
    "is faster than by hand.",
    "mlo, TorchOpt and Betty's Neumann series were checked to compute the hypergradient of the "
    "hand-written loop before anything was timed: to 1e-10 in float64, and in float32 to 1e-4 "
    "(finite differences, which round, to 3e-3).",
    "Betty's finite difference has no learning-rate factor and its conjugate gradients have no "
    "damping and use the previous residual (0.2.1): these two do similar work, not the same.",
    "TorchOpt spends one more Hessian product than the others (a product with its start, zero).",
    "Distance: of the float32 hypergradient of mlo from the hand-written one, relative.",
    "Memory is the peak of one upper step above the resident base, each variant in a process of "
    "its own.",
)


def run(settings: Settings) -> Result:
    """Check that the variants are equal, then time them and measure their memory."""
    sizes = ("1k",) if settings.quick else ("94k", "1M", "10M")
    rows: list[Row] = []
    with peers.quiet():
        for size in sizes:
            for program in PROGRAMS:
                for method in METHODS:
                    rows += _rows(settings, size, program, method)
    return Result(title="Upper step against a hand-written loop (batch 64)", rows=rows, notes=NOTES)


CASE = Case(
    name="upper_step",
    summary="upper step and round against a hand-written loop, Betty and TorchOpt; memory",
    run=run,
)


def _rows(settings: Settings, size: str, program: str, method: str) -> list[Row]:
    shape = Shape(size=size, device=settings.device, seed=settings.seed)
    makers, missing = variants(METHODS[method], settings.device)
    agreement = _check(shape, program, method, makers)
    shared: Row = {"program": program, "parameters": size, "method": method}
    rows: list[Row] = []
    for what in (STEP, ROUND):
        steps = {name: _built(make, shape, program) for name, make in makers.items()}
        for each in steps.values():
            each.round()
        samples = interleaved(
            {name: s.upper if what == STEP else s.round for name, s in steps.items()},
            device=settings.device,
            sampling=sampling_of(quick=settings.quick),
        )
        base = milliseconds(samples[HAND])
        timed = _row(what, "ms", base, {**missing, **against(samples, HAND)})
        rows.append({**shared, **timed, "distance": agreement[MLO]})
    is_first = (program, method) == (next(iter(PROGRAMS)), next(iter(METHODS)))
    if is_first or not settings.quick:
        rows.append({**shared, **_memory(settings, size, program, method, tuple(makers), missing)})
    return rows


def _row(what: str, unit: str, base: Cell, ratios: Mapping[str, Cell]) -> Row:
    """Return the part of a row that says how the variants compare."""
    compared = {name: ratios.get(name) for name in (MLO, *peers.MODULES)}
    return {"what": what, "unit": unit, HAND: base, **compared}


def variants(method: Method, device: torch.device) -> tuple[dict[str, Make], dict[str, Cell]]:
    """Return how to build each variant that there is, and why the others are missing."""
    found: dict[str, Make] = {
        HAND: lambda parts: by_hand.build(parts, method.by_hand),
        MLO: lambda parts: engines.build(parts, method.response, device),
    }
    missing: dict[str, Cell] = {}
    if peers.installed(peers.BETTY):
        found[peers.BETTY] = lambda parts: peers.betty(parts, method.betty, device)
    else:
        missing[peers.BETTY] = "not installed"
    if method.torchopt is None:
        missing[peers.TORCHOPT] = None
    elif peers.installed(peers.TORCHOPT):
        found[peers.TORCHOPT] = method.torchopt
    else:
        missing[peers.TORCHOPT] = "not installed"
    return found, missing


def _check(shape: Shape, program: str, method: str, makers: Mapping[str, Make]) -> dict[str, float]:
    """Return how far the float32 hypergradients of the variants are from the hand-written one."""
    equal = [n for n in makers if n != peers.BETTY or METHODS[method].betty_is_equal]
    found: dict[str, float] = {}
    for dtype in (torch.float64, torch.float32):
        gradients = {
            name: gradient_of_round(_built(makers[name], _with(shape, dtype), program))
            for name in equal
        }
        label = f"{program}, {shape.size} parameters, {method}, {dtype}"
        tolerance = TOLERANCES[dtype]
        if dtype == torch.float32:
            tolerance *= METHODS[method].rounding
        found = check_equal(label, gradients, HAND, tolerance)
    return found


def _with(shape: Shape, dtype: torch.dtype) -> Shape:
    return Shape(size=shape.size, device=shape.device, seed=shape.seed, dtype=dtype)


def _built(make: Make, shape: Shape, program: str) -> Steps:
    return make(PROGRAMS[program](shape))


def _memory(
    settings: Settings,
    size: str,
    program: str,
    method: str,
    names: tuple[str, ...],
    missing: Mapping[str, Cell],
) -> Row:
    peaks = {
        name: in_new_process(
            _peak, size, program, method, name, str(settings.device), settings.seed
        )
        for name in names
    }
    base = peaks.pop(HAND)
    if not base:
        return _row(MEMORY, "MiB", "not measured here", missing)
    ratios: dict[str, Cell] = {
        name: float(f"{peak / base:.3g}") for name, peak in peaks.items() if peak is not None
    }
    return _row(MEMORY, "MiB", round(base / MIB, 2), {**missing, **ratios})


def _peak(size: str, program: str, method: str, name: str, device: str, seed: int) -> int | None:
    """Return the extra peak memory of one upper step; runs in its own process."""
    torch.set_num_threads(1)
    where = torch.device(device)
    with peers.quiet():
        makers, _ = variants(METHODS[method], where)
        shape = Shape(size=size, device=where, seed=seed)
        steps = _built(makers[name], shape, program)
        steps.round()
        return extra_peak(steps.upper, where)
