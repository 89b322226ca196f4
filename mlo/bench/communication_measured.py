"""What two ranks put into their reductions in one round, read from their own counters.

Both are processes of this machine, joined by gloo. The program is small, as counts do not depend on
what is counted.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Published without saying so.
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.optim import SGD, SparseAdam

from mlo.bench.programs import seeded
from mlo.engine import Engine
from mlo.graph import Graph
from mlo.parallel.data_parallel import DataParallel
from mlo.parallel.traffic import Traffic
from mlo.problem import Problem
from mlo.response.one_step import identity
from mlo.response.protocol import Response
from mlo.separable import Weighted, weighted

LOWER, UPPER = "lower", "upper"
RANKS: Final = 2
ROWS: Final = 12
"""Of a batch of all ranks."""
ROUNDS: Final = 3
"""Until the forms of all gradients are known, and a solve goes on from its last one."""
GROUPS: Final = 4

Batch = tuple[Tensor, Tensor]


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(8))


def bilevel(make: Callable[[int], Response], steps: int) -> Graph:
    """Return a linear model below scales of its outputs, with as many lower updates as steps.

    >>> bilevel(lambda k: identity(), 2)
    Graph(lower, upper)
    """
    with seeded(0):
        # Convex, so that no solve leaves early.
        network = nn.Sequential(nn.BatchNorm1d(5, affine=False), nn.Linear(5, 8))
        batches = [(torch.randn(ROWS, 5), torch.randn(ROWS, 8)) for _ in range(2)]

    def lower_loss(lower: nn.Module, upper: _Scale, batch: Batch) -> Tensor:
        loss: Tensor = (upper.value * lower(batch[0]) - batch[1]).square().mean()
        return loss

    def upper_loss(lower: nn.Module, batch: Batch) -> Tensor:
        loss: Tensor = (lower(batch[0]) - batch[1]).square().mean()
        return loss

    return Graph(
        Problem(
            name=LOWER,
            module=network,
            loss=lower_loss,
            batches=batches[:1],
            steps=steps,
            optimizer=lambda p: SGD(p, lr=0.01, weight_decay=0.1),
            response=make(steps),
        ),
        Problem(
            name=UPPER,
            module=_Scale(),
            loss=upper_loss,
            batches=batches[1:],
            optimizer=lambda p: SGD(p, lr=0.01),
        ),
    )


def three_levels() -> Graph:
    """Return three levels like those of Learning by Grouping: separable losses, sparse rows.

    >>> three_levels()
    Graph(gam, experts, assignments)
    """
    with seeded(0):
        gam, experts = nn.Linear(5, GROUPS), nn.Linear(5, GROUPS)
        rows = nn.Embedding(100, GROUPS, sparse=True)
        index, x = torch.arange(ROWS), torch.randn(ROWS, 5)

    def gam_loss(gam: nn.Module, assignments: nn.Module, batch: Batch) -> Weighted:
        losses = -gam(batch[1]).log_softmax(-1)
        return weighted(losses, assignments(batch[0]).softmax(-1))

    def experts_loss(experts: nn.Module, gam: nn.Module, batch: Batch) -> Weighted:
        return weighted(experts(batch[1]).square(), gam(batch[1]).softmax(-1))

    def assignments_loss(gam: nn.Module, experts: nn.Module, batch: Batch) -> Tensor:
        loss: Tensor = (gam(batch[1]).softmax(-1) * experts(batch[1])).sum(-1).mean()
        return loss

    def problem(name: str, module: nn.Module, loss: Callable[..., Tensor | Weighted]) -> Problem:
        return Problem(
            name=name,
            module=module,
            loss=loss,
            batches=[(index, x)],
            optimizer=lambda p: SGD(p, lr=0.01),
            response=identity(),
        )

    return Graph(
        problem("gam", gam, gam_loss),
        problem("experts", experts, experts_loss),
        Problem(
            name="assignments",
            module=rows,
            loss=assignments_loss,
            batches=[(index, x)],
            optimizer=lambda p: SparseAdam(list(p), lr=0.01),
        ),
    )


def measured(programs: Mapping[str, Callable[[], Graph]]) -> dict[str, Traffic]:
    """Return what rank 0 took part in during the last of `ROUNDS` rounds of each program.

    The functions must be picklable: functions of a module, or partial ones.
    """
    # Forking a server that has imported what takes seconds, and done nothing else, saves them.
    is_forking = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if is_forking else "spawn")
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(max_workers=RANKS, mp_context=context) as pool,
    ):
        store = str(Path(folder, "store"))
        answers = [pool.submit(_of_rank, rank, store, dict(programs)) for rank in range(RANKS)]
        found = [answer.result() for answer in answers]
    return found[0]


def _of_rank(rank: int, store: str, programs: dict[str, Callable[[], Graph]]) -> dict[str, Traffic]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=FileStore(store, RANKS), rank=rank, world_size=RANKS)
    try:
        return {name: _of_program(make()) for name, make in programs.items()}
    finally:
        dist.destroy_process_group()


def _of_program(graph: Graph) -> Traffic:
    ranks = DataParallel()
    engine = Engine(graph, device="cpu", ranks=ranks)
    before = ranks.traffic
    for _ in engine.rounds(ROUNDS):
        last, before = ranks.traffic.since(before), ranks.traffic
    return last
