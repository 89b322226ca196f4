"""What cannot be captured gives one line that says what to change, and is never run in silence."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mlo
from mlo.errors import BatchError, ProblemError
from mlo.replay.captured import WARM_UP
from tests.programs import Vector, two_levels
from tests.replay.recording import Recording, like_an_accelerator

CPU = torch.device("cpu")
__all__ = ["like_an_accelerator"]
pytestmark = pytest.mark.usefixtures("like_an_accelerator")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def elsewhere(parameters):
    optimizer = torch.optim.SGD(parameters, fused=True)
    optimizer.param_groups[0]["lr"] = torch.ones((), device="meta")
    return optimizer


def squared(model, batch):
    return (model.value - batch).square().sum()


def engine(*, loss=squared, optimizer=sgd, scheduler=None, batches=None, cuda_graph=None):
    graph = mlo.Graph(
        mlo.Problem(
            name="model",
            module=Vector(0.0),
            loss=loss,
            batches=batches or [torch.ones(1).double()],
            optimizer=optimizer,
            scheduler=scheduler,
        )
    )
    capture = Recording() if cuda_graph is None else cuda_graph
    return mlo.Engine(graph, device=CPU, cuda_graph=capture)


def run(made, rounds=WARM_UP + 2):
    made.run(rounds, show_progress=False)


def test_a_device_without_cuda_graphs():
    with pytest.raises(mlo.MloError, match=r"cuda_graph=True .* CUDA device, got device 'cpu'"):
        engine(cuda_graph=True)


def test_an_option_that_captures_nothing():
    with pytest.raises(mlo.MloError, match=r"cuda_graph must be a bool or .*Capture, got str"):
        engine(cuda_graph="yes")


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.Adam, r"'model': its Adam counts steps on the host.*capturable=True"),
        (torch.optim.Adagrad, r"'model': its Adagrad counts steps .* use Adam\(capturable=True\)"),
        (torch.optim.Adafactor, r"'model': its Adafactor counts steps"),
        (
            lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1)),
            r"'model': its SGD reads .* give it fused=True",
        ),
        (
            elsewhere,
            r"'model': the learning rate of its SGD is a tensor on meta.*expected cpu",
        ),
    ],
)
def test_an_optimizer_that_works_on_the_host(optimizer, message):
    with pytest.raises(ProblemError, match=message):
        engine(optimizer=optimizer)


def test_a_scheduler_needs_a_rate_that_it_can_change():
    with pytest.raises(
        ProblemError, match=r"'model': it has a scheduler.*SGD must be a tensor.*torch.tensor\(0.1"
    ):
        engine(scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9))


def test_a_scheduler_that_reads_the_loss():
    with pytest.raises(ProblemError, match="ReduceLROnPlateau reads the loss on the host"):
        engine(
            optimizer=lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1).double(), fused=True),
            scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau,
        )


def test_a_scheduler_that_changes_more_than_rates():
    made = engine(
        optimizer=lambda p: torch.optim.SGD(
            p, lr=torch.tensor(0.1).double(), momentum=0.9, fused=True
        ),
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=50),
    )
    with pytest.raises(mlo.MloError, match=r"'model': momentum of its optimizer changed from 0.9"):
        run(made)


def test_a_response_that_repeats_recorded_updates():
    graph = two_levels(nn.Linear(3, 1).double(), mlo.unrolled())
    batch = torch.ones(2, 3).double(), torch.ones(2, 1).double()
    problems = [replace(p, batches=[batch], optimizer=sgd) for p in graph.problems.values()]
    with pytest.raises(ProblemError, match=r"'model': its response makes the recorded updates"):
        mlo.Engine(mlo.Graph(*problems), device=CPU, cuda_graph=Recording())


@pytest.mark.parametrize(
    "draw",
    [random.random, np.random.rand, lambda: torch.rand(())],
    ids=["Python", "NumPy", "torch"],
)
def test_a_loss_that_draws_on_the_host(draw):
    made = engine(loss=lambda model, batch: squared(model, batch) * draw())
    states = random.getstate(), torch.get_rng_state()
    with pytest.raises(ProblemError, match=r"'model': its loss draws random numbers on the host"):
        run(made)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_a_loss_that_reads_a_number():
    made = engine(loss=lambda model, batch: squared(model, batch) * float(batch))
    run(made, WARM_UP - 1)
    with pytest.raises(
        mlo.MloError, match=r"'model': its update cannot be captured: called a synchronizing"
    ) as found:
        run(made, 1)
    assert "\n" not in str(found.value)


def test_an_error_in_the_capture_itself():
    class Broken(Recording):
        def record(self, run):
            try:
                run()
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            except RuntimeError:
                raise RuntimeError("capture was invalidated") from None

    made = engine(cuda_graph=Broken())
    run(made, WARM_UP)
    with pytest.raises(
        mlo.MloError, match=r"'model': its update cannot be captured: operation not permitted when"
    ) as found:
        run(made, 1)
    assert "\n" not in str(found.value)
    assert made.round == WARM_UP


def test_a_batch_of_another_shape():
    made = engine(batches=[torch.ones(3).double()] * 5 + [torch.ones(2).double()])
    run(made, WARM_UP + 2)
    with pytest.raises(
        BatchError, match=r"'model': batch must be the same .*shape \(3,\).*shape \(2,\).*drop_last"
    ):
        run(made, 1)


def test_a_rate_that_is_a_number_and_has_changed():
    made = engine()
    run(made)
    made.optimizers["model"].param_groups[0]["lr"] = 0.05
    with pytest.raises(
        mlo.MloError, match=r"'model': lr of its optimizer changed from 0.1 to 0.05.*fill_\(\)"
    ):
        run(made, 1)


def test_a_rate_may_be_set_before_the_first_round():
    made = engine()
    made.optimizers["model"].param_groups[0]["lr"] = 0.25
    run(made, WARM_UP + 1)
    value = made.graph.problems["model"].module.value.item()
    assert value == pytest.approx(1 - 0.5 ** (WARM_UP + 1), rel=1e-14)


def test_a_rate_that_is_a_tensor_may_be_set_in_place():
    rate = torch.tensor(0.25, dtype=torch.float64)
    made = engine(optimizer=lambda p: torch.optim.SGD(p, lr=rate, fused=True))
    run(made, WARM_UP + 1)
    rate.fill_(0.5)
    run(made, 1)
    value = made.graph.problems["model"].module.value.item()
    assert value == pytest.approx(1.0, rel=1e-14)
