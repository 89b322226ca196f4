"""Rounds per second on 1 to 4,096 ranks: a simulation of what computes and what is sent when.

All ranks are alike, so one is simulated, with a device that computes and a network that sends. A
plain update sends buckets while its backward pass goes on. Reductions of an upper step are waited
for, as what follows needs them. The batch of a rank stays the same, so more ranks see more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.communication import ANSWERS
from mlo.bench.communication_cost import (
    GIGABYTE,
    AllReduce,
    Machine,
    by_node,
    by_node_with_rings,
    flat_ring,
    slowest,
)
from mlo.bench.communication_events import Task, simulated
from mlo.bench.communication_models import BACKWARD, MODELS, Model
from mlo.bench.communication_plot import AS_ASSUMED, write_scaling
from mlo.bench.communication_traffic import FLAGS, message
from mlo.parallel.overlapped import BUCKET_BYTES

COMPUTE, NETWORK = "compute", "network"
STEPS: Final = 10
"""K of the responses."""
RANKS: Final = (1, 8, 64, 512, 4096)


@dataclass(frozen=True, kw_only=True)
class Upper:
    """One upper step.

    Attributes:
        evaluations: Gradients that its response takes; each is a forward and a backward pass.
        reductions: How many of them are reduced.
        is_exact: Whether the cotangent is reduced before the response begins. Without this and
            with no reductions it is the mean of every rank's own hypergradient.
        overlaps: Whether it sends buckets too while it computes, which `mlo` does not do.
        numbers: Parameters of the upper problem.
    """

    evaluations: int
    reductions: int
    is_exact: bool = True
    overlaps: bool = False
    numbers: int = 301


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A round on a cluster.

    Attributes:
        model: Of the lower problem.
        ranks: How many there are.
        upper: The upper step; None for plain training.
        updates: Lower updates in a round.
        machine: What it runs on.
        all_reduce: What a reduction costs.
        itemsize: Bytes of a number of a gradient.
        bucket_bytes: How much of a gradient is reduced together.
        shares_statistics: Whether the mean of running statistics is taken after each update.
    """

    model: Model
    ranks: int
    upper: Upper | None = None
    updates: int = 5
    machine: Machine = field(default_factory=Machine)
    all_reduce: AllReduce = by_node
    itemsize: int = 4
    bucket_bytes: int = BUCKET_BYTES
    shares_statistics: bool = True

    @property
    def forward(self) -> float:
        """Seconds of a forward pass of one rank's slice, the slowest rank's on average."""
        seconds = self.model.examples * self.model.flops / self.machine.flops
        return seconds * slowest(self.ranks, self.machine.slower)

    def reduction(self, size: float) -> float:
        """Return the seconds of one reduction."""
        return self.all_reduce(size, self.ranks, self.machine) if self.ranks > 1 else 0.0


def pieces(model: Model, *, itemsize: int, bucket_bytes: int) -> list[tuple[float, int]]:
    """Return each bucket's share of the backward pass and its bytes, in the order of sending.

    >>> [size for _, size in pieces(MODELS["ResNet-18"](), itemsize=4, bucket_bytes=25 * 2**20)]
    [21467144, 25291400]
    """
    found: list[tuple[float, int]] = []
    sizes: list[int] = []
    room, share, ready, before = bucket_bytes, 0.0, 0.0, 0.0
    total = model.flops
    for layer in reversed(model.layers):
        share += layer.flops / total
        for size in reversed(layer.sizes):
            if sizes and itemsize * size > room:
                found.append((ready - before, message(sizes, itemsize)))
                sizes, room, before = [], bucket_bytes, ready
            sizes.append(size)
            room -= itemsize * size
            ready = share
    return [*found, (1.0 - before, message(sizes, itemsize))]


def tasks_of(plan: Plan) -> list[Task]:
    """Return the tasks of one round."""
    made = _Round(plan)
    for update in range(plan.updates):
        made.evaluate(f"lower {update}", is_overlapped=True)
        if plan.model.statistics and plan.shares_statistics:
            made.reduce(f"lower {update} statistics", message(plan.model.statistics, 4))
    if plan.upper is None:
        return made.tasks
    upper, whole = plan.upper, message(plan.model.sizes, plan.itemsize)
    # The loss of the upper problem, then the gradients that the response takes.
    for evaluation in range(upper.evaluations + 1):
        name = f"upper {evaluation}"
        is_reduced = upper.is_exact and evaluation <= upper.reductions
        made.evaluate(name, is_overlapped=is_reduced and upper.overlaps)
        if is_reduced and not upper.overlaps:
            made.reduce(f"{name} reduced", whole)
    made.reduce("hypergradient", plan.itemsize * (upper.numbers + 1 + FLAGS))
    return made.tasks


class _Round:
    """The tasks of a round as they come, each after those before it."""

    def __init__(self, plan: Plan) -> None:
        self.tasks: list[Task] = []
        self._plan = plan
        self._forward = plan.forward
        self._pieces = pieces(plan.model, itemsize=plan.itemsize, bucket_bytes=plan.bucket_bytes)
        self._before: tuple[str, ...] = ()

    def evaluate(self, name: str, *, is_overlapped: bool) -> None:
        """Add a forward and a backward pass, which sends buckets if it is overlapped."""
        here = f"{name} forward"
        self._add(here, COMPUTE, self._forward, self._before)
        sent: list[str] = []
        for number, (share, size) in enumerate(self._pieces if is_overlapped else [(1.0, 0)]):
            before, here = here, f"{name} backward {number}"
            self._add(here, COMPUTE, BACKWARD * self._forward * share, (before,))
            if is_overlapped:
                sent.append(f"{name} bucket {number}")
                self._add(sent[-1], NETWORK, self._plan.reduction(size), (here,))
        self._before = (here, *sent)

    def reduce(self, name: str, size: float) -> None:
        """Add a reduction that is waited for."""
        self._add(name, NETWORK, self._plan.reduction(size), self._before)
        self._before = (name,)

    def _add(self, name: str, resource: str, seconds: float, after: tuple[str, ...]) -> None:
        self.tasks.append(Task(name=name, resource=resource, seconds=seconds, after=after))


def efficiency(plan: Plan) -> float:
    """Return the time of one rank with the same slice over that of all: 1 if ranks cost nothing."""
    alone = replace(plan, ranks=1)
    return simulated(tasks_of(alone)).seconds / simulated(tasks_of(plan)).seconds


def hidden(plan: Plan) -> float:
    """Return the share of the reductions of a plain update that computation hides."""
    alone = replace(plan, upper=None, updates=1, shares_statistics=False)
    timeline = simulated(tasks_of(alone))
    sent = timeline.busy[NETWORK]
    left = timeline.seconds - timeline.busy[COMPUTE]
    return max(0.0, 1.0 - left / sent) if sent else 1.0


def upper_of(call: str, steps: int = STEPS) -> Upper:
    """Return the upper step of a response of `ANSWERS`.

    >>> upper_of("cg(steps=K)")
    Upper(evaluations=12, reductions=11, is_exact=True, overlaps=False, numbers=301)
    """
    answer = ANSWERS[call]
    evaluations = answer.make(steps).evaluations
    assert evaluations is not None
    return Upper(evaluations=evaluations, reductions=answer.reductions(steps))


UPPERS: Final[Mapping[str, Upper | None]] = {
    "plain training": None,
    "finite_difference()": upper_of("finite_difference()"),
    "value_function(steps=10)": upper_of("value_function(steps=K)"),
    "cg(steps=10)": upper_of("cg(steps=K)"),
    "cg(steps=10), overlapped (not built)": replace(upper_of("cg(steps=K)"), overlaps=True),
    "cg(steps=10), one reduction (inexact)": replace(
        upper_of("cg(steps=K)"), reductions=0, is_exact=False
    ),
}
"""Upper steps that are planned, by the name that tables give them."""

SENSITIVITY_RANKS: Final = 512
SENSITIVITY_RESPONSE: Final = "cg(steps=10)"


def changes(plan: Plan) -> Iterable[tuple[str, Plan]]:
    """Yield what else might be true or done, and the plan with it."""
    machine = plan.machine
    slow = replace(machine.between, bandwidth=machine.between.bandwidth / 4)
    late = replace(
        machine,
        inside=replace(machine.inside, latency=4 * machine.inside.latency),
        between=replace(machine.between, latency=4 * machine.between.latency),
        tree_latency=4 * machine.tree_latency,
    )
    yield (
        "a quarter of the bandwidth between nodes",
        replace(plan, machine=replace(machine, between=slow)),
    )
    yield "four times the latency", replace(plan, machine=late)
    yield "rings only, by node", replace(plan, all_reduce=by_node_with_rings)
    yield "one flat ring", replace(plan, all_reduce=flat_ring)
    yield (
        "half of the computing speed",
        replace(plan, machine=replace(machine, flops=machine.flops / 2)),
    )
    yield (
        "a quarter of the batch",
        replace(plan, model=replace(plan.model, examples=plan.model.examples // 4)),
    )
    yield "gradients in 2 bytes", replace(plan, itemsize=2)
    yield "buckets of 5 MiB", replace(plan, bucket_bytes=plan.bucket_bytes // 5)
    yield "buckets of 100 MiB", replace(plan, bucket_bytes=4 * plan.bucket_bytes)
    if plan.model.statistics:
        yield "running statistics not shared", replace(plan, shares_statistics=False)
    yield "1 lower update a round", replace(plan, updates=1)
    yield "computing times spread by 5%", replace(plan, machine=replace(machine, slower=0.05))


def run(settings: Settings) -> Result:
    """Simulate rounds for every model, response and number of ranks; draw them."""
    models = {name: make() for name, make in MODELS.items()}
    ranks = RANKS if settings.quick else [2**k for k in range(13)]
    rows: list[Row] = []
    for model in models.values():
        for name, upper in UPPERS.items():
            rows += [_row(Plan(model=model, ranks=size, upper=upper), name) for size in ranks]
    upper = UPPERS[SENSITIVITY_RESPONSE]
    for model in models.values():
        base = Plan(model=model, ranks=SENSITIVITY_RANKS, upper=upper)
        for change, plan in changes(base):
            rows.append(_row(plan, SENSITIVITY_RESPONSE, change))
    result = Result(title="Rounds on many ranks, simulated", rows=rows, notes=NOTES)
    write_scaling(rows, settings.out / "communication_scaling.png")
    return result


def _row(plan: Plan, name: str, change: str = AS_ASSUMED) -> Row:
    timeline = simulated(tasks_of(plan))
    return {
        "model": plan.model.name,
        "response": name,
        "ranks": plan.ranks,
        "rounds/s": 1.0 / timeline.seconds,
        "efficiency": efficiency(plan),
        "sent (s)": timeline.busy[NETWORK],
        "hidden": hidden(plan),
        "change": change,
    }


NOTES: Final = (
    "SIMULATED: nothing of this was run on more than one machine. "
    f"A rank computes {Machine().flops / 1e12:.0f} TFLOP/s; {Machine().node} ranks a node with "
    f"{Machine().inside.bandwidth / GIGABYTE:.0f} GB/s inside and "
    f"{Machine().between.bandwidth / GIGABYTE:.0f} GB/s a rank between; float32 gradients.",
    "5 lower updates and one upper step a round; the upper problem has 301 parameters. Each rank "
    "has 64 images (ResNet-18, Swin-T) or 8,192 tokens (1B), however many ranks there are.",
    "Left out: the optimizers' own steps, reading data, and that sending slows down computation.",
    "Sent is the time of all reductions of a round, hidden the share of a lower update's that its "
    "backward pass hides. Efficiency is the time of one rank with the same slice over that "
    "of all.",
    "With one reduction each rank answers its own cotangent on its own rows, which is another "
    "number: see communication_bias.",
)

CASE = Case(
    name="communication_scaling",
    summary="simulated rounds on 1 to 4,096 ranks by model and response, and what they depend on",
    run=run,
)
