"""Losses in half precision: what runs in it and what does not."""

import math
from dataclasses import replace

import pytest
import torch

import mlo
from mlo import Autocast, Engine, Graph, MloError
from tests.precision_programs import adam, plain, reweighted, rows
from tests.programs import relative_error

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
DOUBLE_BACKWARD = [
    mlo.identity(),
    mlo.neumann(terms=2, rate=0.1),
    mlo.cg(steps=2, damping=1.0),
    mlo.exact(damping=1.0),
    mlo.nystrom(rank=2, damping=1.0),
    mlo.adaptive(),
    mlo.warm_started(),
    mlo.unrolled(),
]
DIFFERENCES = [
    mlo.finite_difference(),
    mlo.identity(product="finite_difference"),
    mlo.cg(steps=2, damping=1.0, product="finite_difference"),
    mlo.adaptive(product="finite_difference"),
    mlo.value_function(steps=2, rate=0.1),
    mlo.value_function(steps=2, rate=0.1, central=True),
    mlo.stationarity_penalty(steps=2, rate=0.1),
]


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_a_plain_loss_runs_in_half_precision_and_everything_else_is_full(dtype):
    problem = plain([rows(0)])
    engine = Engine(Graph(problem), device="cpu", autocast=Autocast(dtype=dtype))
    swept = engine.update("model")
    assert problem.module.seen == [dtype]
    assert {g.dtype for g in swept.gradient.values()} == {FP32}
    assert {p.dtype for p in problem.module.parameters()} == {FP32}
    state = engine.optimizers["model"].state_dict()["state"]
    assert {v.dtype for entries in state.values() for v in entries.values()} == {FP32}


def seen_by(response, autocast):
    """Return the precisions seen in an upper update: in the upper loss, and in the response."""
    graph = reweighted(response)
    engine = Engine(graph, device="cpu", autocast=autocast)
    engine.update("model")
    model = graph.problem("model").module
    assert model.seen == ([FP32] if autocast is None else [autocast.dtype])
    model.seen.clear()
    swept = engine.update("weights")
    assert {g.dtype for g in swept.gradient.values()} == {FP32}
    first, *others = model.seen
    return first, set(others)


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("response", DOUBLE_BACKWARD + DIFFERENCES, ids=lambda r: r.label)
def test_a_response_is_in_full_precision(response, dtype):
    autocast = Autocast(dtype=dtype, initial_scale=64.0)
    assert seen_by(response, autocast) == (dtype, {FP32})


@pytest.mark.parametrize("response", DOUBLE_BACKWARD, ids=lambda r: r.label)
def test_products_by_double_backward_are_in_half_precision_if_asked_for(response):
    assert seen_by(response, Autocast(responses=True)) == (BF16, {BF16})


@pytest.mark.parametrize("response", DIFFERENCES, ids=lambda r: r.label)
def test_differences_stay_in_full_precision_even_so(response):
    assert seen_by(response, Autocast(responses=True)) == (BF16, {FP32})


@pytest.mark.parametrize("response", DIFFERENCES, ids=lambda r: r.label)
def test_differences_on_micro_batches_stay_in_full_precision(response):
    graph = reweighted(response, accumulate=2)
    engine = Engine(graph, device="cpu", autocast=Autocast(responses=True))
    engine.update("model")
    model = graph.problem("model").module
    model.seen.clear()
    engine.update("weights")
    assert model.seen[0] == BF16
    assert set(model.seen[1:]) == {FP32}


def test_without_autocast_everything_is_in_full_precision():
    assert seen_by(mlo.identity(), None) == (FP32, {FP32})


@pytest.mark.parametrize(
    "autocast", [Autocast(), Autocast(responses=True), Autocast(dtype=FP16, initial_scale=64.0)]
)
@pytest.mark.parametrize("response", DOUBLE_BACKWARD + DIFFERENCES, ids=lambda r: r.label)
def test_a_hypergradient_in_half_precision_is_close_to_that_in_full(response, autocast):
    gradients = []
    for each in (None, autocast):
        # The first update of Adam, by the sign of the gradient, has almost no derivative.
        graph = reweighted(response, optimizer=adam(eps=0.1))
        engine = Engine(graph, device="cpu", autocast=each)
        engine.update("model")
        gradients.append(engine.update("weights").gradient)
    assert 0 < relative_error(gradients[1], gradients[0]) < 0.05


@pytest.mark.parametrize("responses", [False, True])
def test_a_separable_loss_in_half_precision(responses):
    def train_loss(model, weights, batch):
        errors = (model(batch[0]) - batch[1]).square()
        return mlo.weighted(errors, weights(batch[0]).sigmoid())

    gradients = []
    for autocast in (None, Autocast(responses=responses)):
        graph = reweighted(mlo.finite_difference())
        graph = Graph(replace(graph.problem("model"), loss=train_loss), graph.problem("weights"))
        engine = Engine(graph, device="cpu", autocast=autocast)
        engine.update("model")
        gradients.append(engine.update("weights").gradient)
    assert relative_error(gradients[1], gradients[0]) < 0.05


def test_training_in_half_precision_gets_where_training_in_full_gets():
    losses = []
    for autocast in (None, Autocast(), Autocast(dtype=FP16, growth_every=3)):
        problem = plain([rows(0), rows(1)], optimizer=adam(0.05))
        engine = Engine(Graph(problem), device="cpu", autocast=autocast)
        losses.append(float(engine.run(30, show_progress=False).losses["model"]))
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": FP32}, "dtype must be torch.bfloat16 or torch.float16, got torch.float32"),
        ({"dtype": "bf16"}, "dtype must be torch.bfloat16 or torch.float16, got 'bf16'"),
        (
            {"dtype": FP16, "responses": True},
            "responses=True takes dtype=torch.bfloat16, got",
        ),
        ({"responses": "yes"}, "responses must be True or False, got 'yes'"),
        ({"initial_scale": 0.5}, "initial_scale must be a number >= 1, got 0.5"),
        ({"initial_scale": math.inf}, "initial_scale must be a number >= 1, got inf"),
        ({"initial_scale": math.nan}, "initial_scale must be a number >= 1, got nan"),
        ({"initial_scale": "8"}, "initial_scale must be a number >= 1, got '8'"),
        ({"growth_every": 0}, "growth_every must be an integer >= 1, got 0"),
        ({"growth_every": True}, "growth_every must be an integer >= 1, got True"),
        ({"growth_every": 2.5}, r"growth_every must be an integer >= 1, got 2\.5"),
        ({"growth_every": None}, "growth_every must be an integer >= 1, got None"),
    ],
)
def test_a_field_that_cannot_be(fields, message):
    with pytest.raises(MloError, match=f"^autocast: {message}"):
        Autocast(**fields)


def test_an_engine_that_is_given_a_dtype():
    message = r"autocast must be mlo.Autocast\(dtype=...\) or None, got dtype"
    with pytest.raises(MloError, match=message):
        Engine(Graph(plain([rows(0)])), device="cpu", autocast=torch.bfloat16)
