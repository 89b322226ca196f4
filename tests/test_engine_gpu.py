"""On a GPU no round waits for the device: reading one number would stall every queued kernel."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import mlo
from mlo.bench.engines import declare
from mlo.bench.programs import PROGRAMS, Shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RESPONSES = [
    mlo.finite_difference(),
    mlo.identity(),
    mlo.neumann(terms=3),
    mlo.neumann(terms=3, product="finite_difference"),
    mlo.cg(steps=3, damping=1.0),
    mlo.cg(steps=3, damping=1.0, product="finite_difference"),
]


@contextmanager
def refusing_synchronisation() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_a_synchronisation_would_be_found():
    number = torch.ones((), device="cuda")
    with refusing_synchronisation(), pytest.raises(RuntimeError, match="synchronizing"):
        number.item()


@pytest.mark.parametrize("build", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("response", RESPONSES, ids=lambda response: response.label)
def test_a_round_never_waits(build, response):
    cuda = torch.device("cuda")
    engine = mlo.Engine(declare(build(Shape(size="94k", device=cuda)), response), device=cuda)
    # The first round may read its outcomes, to warn; the last reads whether all was finite.
    rounds = engine.rounds(10)
    next(rounds)
    with refusing_synchronisation():
        for _ in range(5):
            made = next(rounds)
    assert made.number == 6
    assert all(bool(torch.isfinite(loss)) for loss in made.losses.values())


@pytest.mark.parametrize("build", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("response", RESPONSES, ids=lambda response: response.label)
def test_a_gpu_computes_what_a_cpu_does(build, response):
    losses = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        parts = build(Shape(size="1k", device=device, dtype=torch.float64))
        made = mlo.Engine(declare(parts, response), device=device).run(3, show_progress=False)
        losses.append({name: float(loss) for name, loss in made.losses.items()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
