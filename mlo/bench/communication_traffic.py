"""What ranks exchange in one round of data-parallel training, counted before it is run.

A reduction carries one number for each number of its tensors and, but for those within a response,
two more for each tensor: on how many ranks it was dense and on how many sparse. All of a problem's
parameters travel in one reduction, but for plain updates, where they travel in buckets while the
backward pass goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlo.graph import Graph
from mlo.inner_loss import is_replicated
from mlo.parallel.overlapped import BUCKET_BYTES
from mlo.parallel.traffic import Traffic, Volume
from mlo.schedule import updates_per_round

FLAGS = 2
"""Numbers that travel behind each tensor."""


class Rows(NamedTuple):
    """A sparse gradient: how many rows it has on the rank that has most, and numbers in a row."""

    number: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What must be known of a problem to count what ranks exchange for it.

    Attributes:
        sizes: Numbers in each of its parameters, in their order.
        updates: Its updates in one round.
        asked: Solved problems whose cotangent its sweep asks for, in order; none for plain
            training.
        statistics: Numbers in each floating buffer, whose mean is taken after each update.
        itemsize: Bytes of a number.
        sparse: The gradient of its only parameter, where that is sparse; None where it is dense.
        is_replicated: Whether every rank has all of its loss and answers linearly, so that a
            cotangent need not be reduced before it is asked.
    """

    sizes: tuple[int, ...]
    updates: int = 1
    asked: tuple[str, ...] = ()
    statistics: tuple[int, ...] = ()
    itemsize: int = 4
    sparse: Rows | None = None
    is_replicated: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers it trains."""
        return sum(self.sizes)


def message(sizes: Sequence[int], itemsize: int) -> int:
    """Return the bytes that one reduction of tensors of these sizes puts in.

    >>> message([100, 10], 4)
    456
    """
    return itemsize * (sum(sizes) + FLAGS * len(sizes))


def buckets(sizes: Sequence[int], itemsize: int, bucket_bytes: int = BUCKET_BYTES) -> list[int]:
    """Return the bytes of each bucket of tensors that come in this order.

    A tensor begins a bucket if it does not fit into what is left of the last one.

    >>> buckets([1, 20, 20, 30], 4, bucket_bytes=200)
    [188, 128]
    """
    groups: list[list[int]] = []
    room = 0
    for size in sizes:
        if itemsize * size > room:
            groups.append([])
            room = bucket_bytes
        groups[-1].append(size)
        room -= itemsize * size
    return [message(group, itemsize) for group in groups]


def traffic_of(
    problems: Mapping[str, Trained],
    reductions: Mapping[str, int],
    *,
    bucket_bytes: int = BUCKET_BYTES,
) -> Traffic:
    """Return what each rank puts into the reductions of one round.

    Kinds are those of `mlo.parallel.data_parallel.DataParallel.traffic`: ``"gradients"`` of plain
    updates, ``"means"`` of cotangents, hypergradients and running statistics, ``"copies"`` within
    responses. What is exchanged on the host, or only once, is left out. The gradients of a plain
    update are taken to come in the reverse order of the parameters. A solve that leaves early
    reduces less often. Nested programs, whose solutions within reduce too, are not counted.

    Args:
        problems: What there is, by name.
        reductions: For each solved problem, how often ranks reduce while it answers once: one for
            each gradient in its own parameters, see `mlo.bench.communication.ANSWERS`.
        bucket_bytes: How much of a gradient is reduced together.

    >>> lower, upper = Trained(sizes=(100, 10), updates=5), Trained(sizes=(7,), asked=("lower",))
    >>> found = traffic_of({"lower": lower, "upper": upper}, {"lower": 3}).kinds
    >>> found["gradients"], found["copies"]
    (Volume(count=5, bytes=2340), Volume(count=3, bytes=1320))
    >>> found["means"]  # the cotangent, then the hypergradient and the loss
    Volume(count=2, bytes=504)
    """
    kinds = {"gradients": Volume(), "means": Volume(), "copies": Volume()}

    def add(kind: str, *sent: int) -> None:
        before = kinds[kind]
        kinds[kind] = Volume(count=before.count + len(sent), bytes=before.bytes + sum(sent))

    for problem in problems.values():
        for _ in range(problem.updates):
            if not problem.asked:
                order = [1, *reversed(problem.sizes)]
                add("gradients", *buckets(order, problem.itemsize, bucket_bytes))
            for name in problem.asked:
                solved = problems[name]
                if not solved.is_replicated:
                    add("means", message(solved.sizes, solved.itemsize))
                    # Within a response every rank has every gradient.
                    add("copies", *[solved.itemsize * solved.numbers] * reductions[name])
            if problem.asked:
                add("means", *_hypergradient(problem))
            if problem.statistics:
                add("means", message(problem.statistics, problem.itemsize))
    return Traffic(kinds={kind: volume for kind, volume in kinds.items() if volume.count})


def _hypergradient(problem: Trained) -> list[int]:
    """Return the bytes of the reductions of a loss and the gradient that comes with it."""
    if problem.sparse is None:
        return [message([1, *problem.sizes], problem.itemsize)]
    number, width = problem.sparse
    # The loss, with what ranks have of the gradient; how many rows; their numbers and their values.
    return [message([1, 0], problem.itemsize), 16, 8 * number, problem.itemsize * number * width]


def trained_in(graph: Graph) -> dict[str, Trained]:
    """Return what `traffic_of` must know of the problems of a graph with dense gradients.

    >>> from torch import nn
    >>> from mlo.problem import Problem
    >>> line = Problem(name="line", module=nn.Linear(3, 2), loss=lambda line: line.weight.sum())
    >>> trained_in(Graph(line))["line"].sizes
    (6, 2)
    """
    updates = updates_per_round(graph.levels, {n: p.steps for n, p in graph.problems.items()})
    found: dict[str, Trained] = {}
    for name, problem in graph.problems.items():
        parameters = list(problem.parameters().values())
        found[name] = Trained(
            sizes=tuple(p.numel() for p in parameters),
            updates=updates[name],
            asked=graph.sweeps[name].order,
            statistics=tuple(b.numel() for b in problem.module.buffers() if b.is_floating_point()),
            itemsize=parameters[0].element_size(),
            is_replicated=any(
                is_replicated(graph, plan, name)
                for plan in graph.sweeps.values()
                if name in plan.order
            ),
        )
    return found
