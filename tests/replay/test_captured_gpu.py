"""On a GPU the graph is a real one; what is compared is as in `test_replay`."""

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import StepLR

import mlo
from mlo.bench.engines import declare
from mlo.bench.programs import PROGRAMS, Shape
from mlo.replay.captured import WARM_UP
from tests.replay.test_captured import RESPONSES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ROUNDS = WARM_UP + 5


def parameters_after(graph, **options):
    mlo.Engine(graph, device="cuda", **options).run(ROUNDS, show_progress=False)
    return [p.detach() for q in graph.problems.values() for p in q.module.parameters()]


def bilevel(response, program="reweighting"):
    shape = Shape(size="1k", device=torch.device("cuda"), dtype=torch.float64)
    return declare(PROGRAMS[program](shape), response)


def line(*, optimizer, scheduler=None, loss=None, layers=(), response=None):
    def fitted(model, weight, batch):
        losses = (model(batch) - batch.sum(1, keepdim=True)).square()
        return (weight(batch).sigmoid() * losses).mean()

    def sgd(parameters):
        return SGD(parameters, lr=0.1)

    torch.manual_seed(0)
    inputs = torch.randn(4, 8, 3, device="cuda")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), *layers, torch.nn.Linear(4, 1)).cuda()
    return mlo.Graph(
        mlo.Problem(
            name="model",
            module=model,
            loss=loss or fitted,
            batches=list(inputs),
            optimizer=optimizer,
            scheduler=scheduler,
            steps=3,
            response=response or mlo.identity(),
        ),
        mlo.Problem(
            name="weight",
            module=torch.nn.Linear(3, 1).cuda(),
            loss=lambda model, batch: (model(batch) - 1).square().mean(),
            batches=list(inputs[:3]),
            optimizer=sgd,
        ),
    )


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("response", RESPONSES, ids=lambda response: response.label)
def test_a_replayed_round_is_the_round(response, program):
    expected = parameters_after(bilevel(response, program))
    found = parameters_after(bilevel(response, program), cuda_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_compiled_losses_are_captured_too():
    response = mlo.finite_difference()
    expected = parameters_after(bilevel(response))
    found = parameters_after(bilevel(response), cuda_graph=True, compiled=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_steps_are_counted_and_rates_follow_their_scheduler():
    def make(kind):
        def optimizer(parameters):
            rate = torch.tensor(0.1, device="cuda")
            if kind is AdamW:
                return AdamW(parameters, lr=rate, capturable=True)
            return SGD(parameters, lr=rate, momentum=0.9, fused=True)

        return line(optimizer=optimizer, scheduler=lambda o: StepLR(o, step_size=2, gamma=0.5))

    for kind in (SGD, AdamW):
        expected = parameters_after(make(kind))
        found = parameters_after(make(kind), cuda_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_every_replay_draws_a_dropout_mask_of_its_own():
    masks = torch.nn.Dropout(0.5)
    drawn = torch.zeros((), device="cuda")

    def loss(model, batch):
        found = masks(torch.ones(64, device="cuda"))
        drawn.copy_(found.cumsum(0).sum())
        return (model(batch) * found.mean()).square().mean()

    graph = mlo.Graph(
        mlo.Problem(
            name="model",
            module=torch.nn.Linear(3, 1),
            loss=loss,
            batches=[torch.ones(2, 3)],
            optimizer=lambda p: SGD(p, lr=0.01),
        )
    )
    engine = mlo.Engine(graph, device="cuda", cuda_graph=True)
    seen = {float(drawn) for _ in engine.rounds(ROUNDS)}
    assert len(seen) > WARM_UP


def test_a_solved_problem_with_dropout_is_refused():
    graph = line(optimizer=lambda p: SGD(p, lr=0.1), layers=(torch.nn.Dropout(0.5),))
    with pytest.raises(mlo.errors.ProblemError, match=r"'model': its loss draws random numbers on"):
        mlo.Engine(graph, device="cuda", cuda_graph=True).run(1, show_progress=False)


@pytest.mark.parametrize("response", [mlo.nystrom(), mlo.exact()], ids=lambda r: r.label)
def test_what_waits_for_the_device_is_refused_in_the_rehearsal(response):
    graph = line(optimizer=lambda p: SGD(p, lr=0.1), response=response)
    engine = mlo.Engine(graph, device="cuda", cuda_graph=True)
    with pytest.raises(mlo.MloError, match=r"'weight': its update cannot be captured: .*sync"):
        engine.run(WARM_UP, show_progress=False)
