"""Many lower problems that all read each other: time of one upper step against their number."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from mlo.bench import peers
from mlo.bench.case import Case, Cell, Result, Row, Settings
from mlo.bench.programs import seeded
from mlo.bench.timing import against, interleaved, milliseconds, sampling_of
from mlo.bench.variant import Steps, check_equal, gradient_of_round
from mlo.engine import Engine
from mlo.graph import Graph
from mlo.problem import Problem
from mlo.response.one_step import finite_difference

TOP = "top"
SIZE = 10
"""Entries of each problem."""
LIMIT = 20.0
"""Seconds of one upper step above which a peer is not asked for more levels."""
TOLERANCE = 1e-8
"""In float64 a difference of gradients that are linear is exact but for rounding."""
MLO = "mlo"
Loss = Callable[..., Tensor]
NOTES = (
    "Each lower problem reads all problems below it and the top one, so 2^L - 1 paths lead back to "
    "it; the loss of the top reads all of them. 10 float64 entries a problem, finite differences.",
    "Evaluations are calls of a loss in one upper step, counted; 2 L + 1 is the least.",
    "Hypergradients were checked to be equal to 1e-8 wherever both were computed.",
)


class _Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(SIZE, dtype=torch.float64) / SIZE)


class _Program:
    """``g_n(x_n) = ½‖x_n‖² - x_nᵀ Σ_{m below or top} M_nm x_m`` for each lower problem n."""

    def __init__(self, lower: int, settings: Settings) -> None:
        with seeded(settings.seed):
            self.lower = tuple(f"p{n}" for n in range(lower))
            self.modules = {name: _Point().to(settings.device) for name in (*self.lower, TOP)}
            self.reads = {n: (*self.lower[:k], TOP) for k, n in enumerate(self.lower)}
            self.matrix = {
                (n, m): torch.randn(SIZE, SIZE, dtype=torch.float64).to(settings.device) / 30
                for n, reads in self.reads.items()
                for m in reads
            }
        self.calls = 0

    def loss(self, name: str) -> Loss:
        """Return the loss of a problem, which counts its calls."""

        def lower(**points: Any) -> Tensor:
            self.calls += 1
            own = points[name].value
            pull = torch.stack([self.matrix[name, m] @ points[m].value for m in self.reads[name]])
            loss: Tensor = own @ own / 2 - own @ pull.sum(0)
            return loss

        def top(**points: Any) -> Tensor:
            self.calls += 1
            parts = [(points[n].value - 1).square().sum() for n in self.lower]
            return torch.stack(parts).sum()

        return top if name == TOP else lower


def _by_mlo(program: _Program, settings: Settings) -> Steps:
    # Betty leaves the learning rate out, which is a rate of 1.
    response = finite_difference(rate=1.0)
    engine = Engine(
        Graph(
            *(
                Problem(
                    name=name,
                    module=program.modules[name],
                    loss=program.loss(name),
                    reads=(name, *program.reads[name]),
                    optimizer=lambda p: SGD(p, lr=1e-3),
                    response=response,
                )
                for name in program.lower
            ),
            Problem(
                name=TOP,
                module=program.modules[TOP],
                loss=program.loss(TOP),
                reads=program.lower,
                optimizer=lambda p: SGD(p, lr=0.0),
            ),
        ),
        device=settings.device,
    )
    return Steps(
        lower=lambda: None, upper=lambda: engine.update(TOP), optimizer=engine.optimizers[TOP]
    )


def _by_betty(program: _Program, settings: Settings) -> Steps:
    def declare(name: str) -> Any:
        loss = program.loss(name)
        reads = program.lower if name == TOP else program.reads[name]

        def training_step(problem: Any, batch: object) -> Tensor:
            del batch
            others = {n: getattr(problem, n).module for n in reads}
            return loss(**{name: problem.module, **others})

        return peers.betty_problem(
            name,
            training_step,
            program.modules[name],
            0.0 if name == TOP else 1e-3,
            [(torch.zeros(1),)],
            {"type": "darts", "darts_alpha": 0.01, "retain_graph": True},
        )

    order = (*program.lower, TOP)
    problems = {name: declare(name) for name in order}
    top = problems[TOP]
    below = [problems[name] for name in program.lower]
    upwards = {
        problem: [problems[name] for name in order[k + 1 :]] for k, problem in enumerate(below)
    }
    peers.run_betty([*below, top], {top: below}, upwards, settings.device)
    for problem in below:
        problem.cur_batch = (torch.zeros(1),)
    return Steps(lower=lambda: None, upper=top.one_step_descent, optimizer=top.optimizer)


def run(settings: Settings) -> Result:
    """Time one upper step for more and more levels, a peer beside as long as it is fast enough."""
    rows: list[Row] = []
    peer = peers.installed(peers.BETTY)
    slow = False
    with peers.quiet():
        for lower in (3, 4) if settings.quick else range(3, 13):
            row, seconds = _row(settings, lower, with_peer=bool(peer) and not slow)
            if not peer:
                row[peers.BETTY] = "not installed"
            elif slow:
                row[peers.BETTY] = f"not run (> {LIMIT:g} s)"
            slow = slow or seconds > LIMIT
            rows.append(row)
    return Result(title="L fully connected lower problems: one upper step", rows=rows, notes=NOTES)


CASE = Case(
    name="levels",
    summary="upper step through L fully connected lower problems, Betty beside",
    run=run,
)


def _row(settings: Settings, lower: int, *, with_peer: bool) -> tuple[Row, float]:
    """Return the row of `lower` levels and the seconds of one upper step of the peer."""
    makers: dict[str, Callable[[_Program, Settings], Steps]] = {MLO: _by_mlo}
    if with_peer:
        makers[peers.BETTY] = _by_betty
    programs = {name: _Program(lower, settings) for name in makers}
    steps = {name: make(programs[name], settings) for name, make in makers.items()}
    seconds, gradients, evaluations = 0.0, {}, {}
    for name, each in steps.items():
        started = time.perf_counter()
        gradients[name] = gradient_of_round(each)
        seconds = time.perf_counter() - started
        evaluations[name] = programs[name].calls
    check_equal(f"{lower} levels", gradients, MLO, TOLERANCE)
    samples = interleaved(
        {name: each.upper for name, each in steps.items()},
        device=settings.device,
        sampling=sampling_of(quick=settings.quick),
    )
    ratios: Mapping[str, Cell] = against(samples, MLO)
    row: Row = {
        "levels": lower,
        "paths": 2**lower - 1,
        "mlo (ms)": milliseconds(samples[MLO]),
        "mlo (evaluations)": evaluations[MLO],
        peers.BETTY: ratios.get(peers.BETTY),
        f"{peers.BETTY} (ms)": milliseconds(samples[peers.BETTY]) if with_peer else None,
        f"{peers.BETTY} (evaluations)": evaluations.get(peers.BETTY),
    }
    return row, seconds if with_peer else 0.0
