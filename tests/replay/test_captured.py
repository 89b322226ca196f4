import math

import pytest
import torch
from torch import nn

import mlo
from mlo.bench.engines import declare
from mlo.bench.programs import MODEL, PROGRAMS, UPPER, Shape
from mlo.replay.captured import WARM_UP, ReplayWarning
from tests.programs import Vector, network
from tests.replay.recording import Recording, like_an_accelerator

CPU = torch.device("cpu")
REPLAYS = 5

RESPONSES = [
    mlo.finite_difference(),
    mlo.identity(),
    mlo.neumann(terms=3),
    mlo.neumann(terms=3, rate="auto"),
    mlo.neumann(terms=3, product="finite_difference"),
    mlo.cg(steps=3, damping=1.0),
    mlo.cg(steps=3, damping=1.0, product="finite_difference"),
    mlo.warm_started(),
    mlo.adaptive(),
    mlo.value_function(steps=2),
    mlo.stationarity_penalty(steps=2),
]

INNER = mlo.cg(steps=2, damping=0.1)

__all__ = ["like_an_accelerator"]
pytestmark = pytest.mark.usefixtures("like_an_accelerator")


def bilevel(response, program="reweighting"):
    return declare(PROGRAMS[program](Shape(size="1k", device=CPU, dtype=torch.float64)), response)


def batches(count=7):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 6, 3, generator=generator, dtype=torch.float64)
    return [(x, x.sum(1, keepdim=True).sin()) for x in inputs]


def three_levels(
    model,
    *,
    optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    scheduler=None,
    response=INNER,
):
    """Return weights on a model and a decay on the weights, with several updates a round."""

    def model_loss(model, weights, batch):
        inputs, targets = batch
        return (weights(inputs).sigmoid() * (model(inputs) - targets).square()).mean()

    def weights_loss(model, weights, decay, batch):
        inputs, targets = batch
        penalty = sum(p.square().sum() for p in weights.parameters())
        return (model(inputs) - targets).square().mean() + decay.value.exp().sum() * penalty

    def decay_loss(model, weights, batch):
        inputs, targets = batch
        return (weights(inputs).sigmoid() * (model(inputs) - targets).square()).mean()

    with torch.random.fork_rng():
        torch.manual_seed(1)
        weights = nn.Linear(3, 1).double()
    return mlo.Graph(
        mlo.Problem(
            name="model",
            module=model,
            loss=model_loss,
            batches=batches(),
            optimizer=optimizer,
            scheduler=scheduler,
            steps=3,
            response=mlo.neumann(terms=2),
        ),
        mlo.Problem(
            name="weights",
            module=weights,
            loss=weights_loss,
            batches=batches(5),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            steps=2,
            response=response,
        ),
        mlo.Problem(
            name="decay",
            module=Vector(-3.0),
            loss=decay_loss,
            batches=batches(3),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        ),
    )


def state_of(engine):
    found = {}
    for name, problem in engine.graph.problems.items():
        for key, tensor in problem.module.state_dict().items():
            found[f"{name}.{key}"] = tensor.clone()
        for number, state in enumerate(engine.optimizers[name].state.values()):
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    found[f"{name}.{number}.{key}"] = value.clone()
        for number, group in enumerate(engine.optimizers[name].param_groups):
            found[f"{name}.rate{number}"] = torch.as_tensor(group["lr"]).clone()
    return found


def history_of(engine, count, between=None):
    """Run rounds and return all that each has reported, and where the program stands after it."""
    found = []
    for made in engine.rounds(count):
        told = {
            (target, lower): (int(o.code), float(o.relative_residual), int(o.products))
            for target, outcomes in made.outcomes.items()
            for lower, o in outcomes.items()
        }
        found.append((made.number, made.losses, told, state_of(engine)))
        if between is not None:
            between(engine, made.number)
    return found


def assert_same(found, expected):
    assert len(found) == len(expected)
    for (number, losses, told, state), (number0, losses0, told0, state0) in zip(
        found, expected, strict=True
    ):
        assert number == number0
        torch.testing.assert_close(losses, losses0, rtol=0, atol=0)
        assert told.keys() == told0.keys()
        for pair in told:
            assert told[pair] == pytest.approx(told0[pair], rel=0, abs=0, nan_ok=True), pair
        torch.testing.assert_close(state, state0, rtol=0, atol=0)


def both(make, between=None):
    """Return the histories of a captured and an uncaptured engine on equal graphs."""
    capture = Recording()
    captured = mlo.Engine(make(), device=CPU, cuda_graph=capture)
    found = history_of(captured, WARM_UP + REPLAYS, between)
    expected = history_of(mlo.Engine(make(), device=CPU), WARM_UP + REPLAYS, between)
    return found, expected, capture


@pytest.mark.filterwarnings("ignore::mlo.response_warning.ResponseWarning")
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("response", RESPONSES, ids=lambda response: response.label)
def test_a_replayed_round_is_the_round(response, program):
    found, expected, capture = both(lambda: bilevel(response, program))
    assert_same(found, expected)
    assert (capture.recorded, capture.replayed) == (1, REPLAYS)
    # Otherwise nothing would have been compared.
    assert not torch.equal(found[-1][3]["model.0.weight"], found[-2][3]["model.0.weight"])


@pytest.mark.filterwarnings("ignore::mlo.response_warning.ResponseWarning")
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
        lambda p: torch.optim.AdamW(p, lr=0.01, fused=True, capturable=True),
    ],
    ids=["SGD", "AdamW"],
)
def test_several_updates_a_round_on_batches_of_their_own(optimizer):
    found, expected, capture = both(lambda: three_levels(network(), optimizer=optimizer))
    assert_same(found, expected)
    assert capture.replayed == REPLAYS


@pytest.mark.filterwarnings("ignore::mlo.response_warning.ResponseWarning")
@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=50),
    ],
    ids=["StepLR", "LambdaLR", "CosineAnnealingLR"],
)
def test_learning_rates_follow_their_scheduler_within_a_round(scheduler):
    def make():
        return three_levels(
            network(),
            optimizer=lambda p: torch.optim.SGD(
                p, lr=torch.tensor(0.1, dtype=torch.float64), fused=True
            ),
            scheduler=scheduler,
        )

    found, expected, _ = both(make)
    assert_same(found, expected)
    rates = [float(state["model.rate0"]) for *_, state in found]
    assert rates[-1] < rates[-2] < rates[WARM_UP]


@pytest.mark.filterwarnings("ignore::mlo.response_warning.ResponseWarning")
def test_buffers_move_in_place_or_not():
    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(6, dtype=torch.float64))

        def forward(self, inputs):
            self.mean = 0.9 * self.mean + 0.1 * inputs.detach().mean(0)
            return inputs - self.mean

    found, expected, _ = both(
        # batch_norm has no third derivative.
        lambda: three_levels(
            network(nn.BatchNorm1d(6), Average()), response=mlo.finite_difference()
        )
    )
    assert_same(found, expected)
    assert found[-1][3]["model.1.num_batches_tracked"] == (WARM_UP + REPLAYS) * 6


def test_python_does_not_run_in_a_replay():
    calls = []

    def loss(model, batch):
        calls.append(batch)
        return (model.value - batch).square().sum()

    graph = mlo.Graph(
        mlo.Problem(
            name="model",
            module=Vector(0.0),
            loss=loss,
            batches=[torch.ones(1).double(), torch.zeros(1).double()],
            optimizer=lambda p: torch.optim.SGD(p, lr=0.25),
        )
    )
    engine = mlo.Engine(graph, device=CPU, cuda_graph=Recording())
    engine.run(WARM_UP + 1, show_progress=False)
    before = len(calls)
    # Once more to see whether it draws random numbers, and once to be recorded.
    assert before == WARM_UP + 2
    found = engine.run(4, show_progress=False)
    assert len(calls) == before
    value = 0.0
    for number in range(WARM_UP + 5):
        last, value = value, value + 0.5 * ((1 - number % 2) - value)
    assert graph.problems["model"].module.value.item() == pytest.approx(value, rel=1e-14)
    assert found.losses["model"].item() == pytest.approx((last - (1 - number % 2)) ** 2)


def test_what_a_round_reports_stays_when_the_next_is_replayed():
    engine = mlo.Engine(bilevel(mlo.neumann(terms=2)), device=CPU, cuda_graph=Recording())
    rounds = engine.rounds(WARM_UP + 2)
    made = [next(rounds) for _ in range(WARM_UP + 1)][-1]
    losses = {name: float(loss) for name, loss in made.losses.items()}
    residual = made.outcomes[UPPER][MODEL].residual
    next(rounds)
    assert {name: float(loss) for name, loss in made.losses.items()} == losses
    assert made.outcomes[UPPER][MODEL].residual == residual


@pytest.mark.parametrize("response", [mlo.identity(), mlo.warm_started()], ids=lambda r: r.label)
def test_updates_outside_rounds_are_seen_by_the_next_replay(response):
    found, expected, capture = both(
        lambda: bilevel(response), lambda engine, number: engine.update(UPPER)
    )
    assert_same(found, expected)
    assert capture.recorded == 1


@pytest.mark.filterwarnings("ignore::mlo.response_warning.ResponseWarning")
def test_a_changed_mode_is_captured_again():
    def toggle(engine, number):
        if number == WARM_UP + 1:
            engine.graph.problems["model"].module.eval()

    def make():
        return three_levels(network(nn.BatchNorm1d(6)), response=mlo.finite_difference())

    with pytest.warns(ReplayWarning, match="captured again"):
        found, expected, capture = both(make, toggle)
    assert_same(found, expected)
    assert (capture.recorded, capture.replayed) == (2, 1 + REPLAYS - 1 - WARM_UP)


def test_a_loaded_optimizer_state_is_captured_again():
    def load(engine, number):
        if number == WARM_UP + 1:
            for optimizer in engine.optimizers.values():
                optimizer.load_state_dict(optimizer.state_dict())

    with pytest.warns(ReplayWarning):
        found, expected, capture = both(lambda: three_levels(network()), load)
    assert_same(found, expected)
    assert capture.recorded == 2


def test_evaluating_between_rounds_costs_no_capture():
    def evaluate(engine, number):
        module = engine.graph.problems["model"].module
        module.eval()
        module.train()

    _, _, capture = both(lambda: three_levels(network()), evaluate)
    assert capture.recorded == 1


def test_a_loss_that_is_not_finite_is_reported_and_moves_nothing():
    values = [torch.ones(1).double()] * (WARM_UP + 1) + [torch.full((1,), math.inf).double()]
    graph = mlo.Graph(
        mlo.Problem(
            name="model",
            module=Vector(0.0),
            loss=lambda model, batch: (model.value - batch).square().sum(),
            batches=values,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.25),
        )
    )
    engine = mlo.Engine(graph, device=CPU, cuda_graph=Recording())
    engine.run(WARM_UP + 1, show_progress=False)
    before = graph.problems["model"].module.value.item()
    with pytest.raises(mlo.errors.NonFiniteError, match=rf"'model', round {WARM_UP + 2}"):
        engine.run(1, show_progress=False)
    assert graph.problems["model"].module.value.item() == before
