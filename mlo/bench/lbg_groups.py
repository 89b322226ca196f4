"""What the number of groups costs: a round of Learning by Grouping at K over one at K = 1."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

import mlo
from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.lbg_round import PLUGIN
from mlo.bench.peers import quiet
from mlo.bench.programs import seeded
from mlo.bench.timing import against, interleaved, milliseconds, sampling_of

GROUPS = (1, 2, 4, 8)
NOTES = (
    "Gate and K experts have together the size of one perceptron, whatever K; the batch is the "
    "same. Hard routing: each example runs through one expert, of 1/K of the size.",
    "At K = 1 all three levels are kept, though C then has nothing to learn.",
    "Ratios are medians [quartiles] of pairs timed in alternation.",
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the program is."""

    inputs: int
    hidden: tuple[int, ...]
    batch: int
    classes: int = 10
    examples: int = 4096


SIZES = {
    "medium": Size(inputs=256, hidden=(512, 512), batch=512),
    "large": Size(inputs=784, hidden=(2048, 2048), batch=1024),
}
QUICK = {"small": Size(inputs=16, hidden=(64,), batch=32, examples=64)}


def run(settings: Settings) -> Result:
    """Time a round at every K."""
    title = "Learning by Grouping: a round at K groups over one at K = 1, hard routing"
    if find_spec(PLUGIN) is None:
        note = f"{PLUGIN} is not installed, so nothing was measured."
        return Result(title=title, rows=[], notes=(note,))
    rows: list[Row] = []
    with quiet():
        for name, size in (QUICK if settings.quick else SIZES).items():
            engines = {f"K = {groups}": _engine(settings, size, groups) for groups in GROUPS}
            samples = interleaved(
                {key: engine.round for key, (engine, _) in engines.items()},
                device=settings.device,
                sampling=sampling_of(quick=settings.quick),
            )
            over = against(samples, "K = 1")
            rows.append(
                {
                    "size": name,
                    "parameters": engines["K = 1"][1],
                    "batch": size.batch,
                    "K = 1 (ms)": milliseconds(samples["K = 1"]),
                    **{key: over[key] for key in engines if key != "K = 1"},
                }
            )
    return Result(title=title, rows=rows, notes=NOTES)


CASE = Case(
    name="lbg_groups",
    summary="a round of Learning by Grouping at K = 2, 4, 8 over one at K = 1, at one size",
    run=run,
)


@dataclass(frozen=True, kw_only=True)
class _Rounds:
    """An engine whose rounds are called one by one."""

    engine: mlo.Engine

    def round(self) -> None:
        """Update every level once."""
        for level in ("gam", "experts", "assignments"):
            self.engine.update(level)


def _engine(settings: Settings, size: Size, groups: int) -> tuple[_Rounds, int]:
    """Return what is timed, and the number of parameters of gate and experts."""
    problems = import_module(f"{PLUGIN}.problems")
    count = import_module(f"{PLUGIN}.models.size").num_parameters
    architecture: Any = import_module(f"{PLUGIN}.architecture").perceptrons(
        inputs=size.inputs, classes=size.classes, num_groups=groups, hidden=size.hidden
    )
    with seeded(settings.seed):
        gate = architecture.make_gate().to(settings.device)
        experts = torch.nn.ModuleList(architecture.make_expert() for _ in range(groups))
        rows = import_module(f"{PLUGIN}.assignments").Assignments(
            num_examples=size.examples, num_groups=groups
        )
        inputs = torch.randn(2, size.examples, size.inputs)
        targets = torch.randint(size.classes, (2, size.examples))
    numbers = torch.arange(size.examples)

    def batches(half: int) -> list[tuple[torch.Tensor, ...]]:
        parts = torch.split(numbers, size.batch)
        return [
            tuple(one.to(settings.device) for one in (i, inputs[half, i], targets[half, i]))
            for i in parts
        ]

    graph = problems.three_levels(
        problems.Modules(
            gam=gate, experts=experts.to(settings.device), assignments=rows.to(settings.device)
        ),
        problems.SearchSettings(routing=import_module(f"{PLUGIN}.routing").HARD),
        gam_batches=batches(0),
        expert_batches=batches(0),
        validation_batches=batches(1),
    )
    engine = mlo.Engine(graph, settings.device)
    return _Rounds(engine=engine), count(gate) + count(experts)
