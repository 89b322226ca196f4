"""Where compiling and replaying pay: engine options, checked equal to eager and then timed."""

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

from mlo.bench import engines
from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.programs import PROGRAMS, UPPER, Parts, Shape
from mlo.bench.timing import against, interleaved, milliseconds, sampling_of
from mlo.bench.variant import Steps, check_equal, gradient_of_round
from mlo.compiled_loss import Compile
from mlo.engine import Engine
from mlo.graph import Graph
from mlo.replay.captured import WARM_UP
from mlo.response.one_step import finite_difference

EAGER = "eager"
TOLERANCE = 3e-3
"""Compiled kernels round differently; a central difference in float32 magnifies that to 5e-4."""
NOTES = (
    "Finite differences, as compiled functions cannot be differentiated twice. Ratios to eager, "
    "medians [quartiles] of pairs timed in alternation; below 1 compiling pays.",
    "The gradients were checked to be equal to 3e-3: what float32 leaves of a central difference.",
    f"Preparation is the first {WARM_UP + 1} rounds, in which compiling and capturing happen.",
    "All but the first of them are compared by where they lead, which a replayed round is part of.",
)

MakeSteps = Callable[[Parts, Settings], Steps]


def _eager(parts: Parts, settings: Settings) -> Steps:
    return engines.build(parts, finite_difference(), settings.device)


def _compiled_losses(parts: Parts, settings: Settings) -> Steps:
    engine = Engine(_declare(parts), settings.device, compiled=_compiler(settings))
    return engines.steps_of(engine)


def _replayed(parts: Parts, settings: Settings) -> Steps:
    return _rounds_of(Engine(_declare(parts), settings.device, cuda_graph=True))


def _compiled_and_replayed(parts: Parts, settings: Settings) -> Steps:
    compiler = _compiler(settings)
    return _rounds_of(Engine(_declare(parts), settings.device, compiled=compiler, cuda_graph=True))


def _declare(parts: Parts) -> Graph:
    return engines.declare(parts, finite_difference())


def _compiler(settings: Settings) -> Compile:
    # The real compiler takes a minute; a quick run sees that what it is given can be captured.
    backend = "aot_eager" if settings.quick else "inductor"
    return partial(torch.compile, backend=backend)


def _rounds_of(engine: Engine) -> Steps:
    """Return whole rounds as the upper step, as those are what is replayed."""
    rounds = engine.rounds(sys.maxsize)
    return Steps(
        lower=lambda: None,
        upper=lambda: next(rounds),
        optimizer=engine.optimizers[UPPER],
    )


VARIANTS: Mapping[str, MakeSteps] = {EAGER: _eager, "compiled losses": _compiled_losses}
"""What is compared; one line for each further option of the engine."""
ON_CUDA: Mapping[str, MakeSteps] = {
    "CUDA graph": _replayed,
    "CUDA graph of compiled losses": _compiled_and_replayed,
}
"""What is compared with them on a CUDA device."""


def run(settings: Settings) -> Result:
    """Check that every variant equals eager, then time a round of each."""
    rows: list[Row] = []
    for size in ("1k",) if settings.quick else ("1k", "94k", "1M"):
        for program in PROGRAMS:
            rows += _rows(settings, size, program)
    return Result(title="A round, compiled", rows=rows, notes=NOTES)


CASE = Case(
    name="compile",
    summary="eager against torch.compile of the losses and, on CUDA, replayed rounds",
    run=run,
)


def _rows(settings: Settings, size: str, program: str) -> list[Row]:
    shape = Shape(size=size, device=settings.device, seed=settings.seed)
    torch.compiler.reset()
    steps, gradients, moves, prepared = {}, {}, {}, {}
    variants = {**VARIANTS, **(ON_CUDA if settings.device.type == "cuda" else {})}
    for name, make in variants.items():
        parts = PROGRAMS[program](shape)
        steps[name] = make(parts, settings)
        started = time.perf_counter()
        gradients[name] = gradient_of_round(steps[name])
        model = [p.detach().clone() for p in parts.model.parameters()]
        for _ in range(WARM_UP):
            steps[name].round()
        moves[name] = [p.detach() - q for p, q in zip(parts.model.parameters(), model, strict=True)]
        prepared[name] = time.perf_counter() - started
    label = f"{program}, {size} parameters"
    distances = check_equal(label, gradients, EAGER, TOLERANCE)
    check_equal(f"{label}, moves", moves, EAGER, TOLERANCE)
    samples = interleaved(
        {name: each.round for name, each in steps.items()},
        device=settings.device,
        sampling=sampling_of(quick=settings.quick),
    )
    ratios = against(samples, EAGER)
    return [
        {
            "program": program,
            "parameters": size,
            "variant": name,
            "eager (ms)": milliseconds(samples[EAGER]),
            "ratio": ratios[name],
            "distance": distances[name],
            "preparation (s)": round(prepared[name], 2),
        }
        for name in ratios
    ]
