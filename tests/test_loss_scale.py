"""Scaled losses in float16: the same gradients, and what an overflow leaves alone."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mlo
from mlo import Autocast, Clipping, Engine, Graph, NonFiniteError, Problem
from mlo.precision import LossScale
from tests.precision_programs import adam, plain, reweighted, rows
from tests.programs import Vector, relative_error, same_bits, snapshot

FP16 = torch.float16


def everything(engine):
    """Return copies of all that an update may change, by name."""
    found = dict(snapshot(engine.graph))
    for name, optimizer in engine.optimizers.items():
        for position, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                found[f"{name}.{position}.{key}"] = torch.as_tensor(value).clone()
    for name, scheduler in engine.schedulers.items():
        found[f"{name}.scheduler"] = torch.tensor([scheduler.last_epoch, *scheduler.get_last_lr()])
    return found


def test_a_scaled_gradient_is_the_gradient():
    gradients = []
    for scale in (1.0, 8.0, 1024.0):
        engine = Engine(
            Graph(plain([rows(0)])),
            device="cpu",
            autocast=Autocast(dtype=FP16, initial_scale=scale),
        )
        swept = engine.update("model")
        gradients.append(swept.gradient)
        assert float(swept.loss) == pytest.approx(1.0, rel=0.9)
    exact = Engine(Graph(plain([rows(0)])), device="cpu").update("model").gradient
    assert all(relative_error(g, exact) < 5e-3 for g in gradients)
    assert relative_error(gradients[2], gradients[1]) < 1e-3


def test_a_scale_saves_gradients_that_would_vanish():
    """The smallest number of float16 is 6e-8."""

    def problem():
        made = plain([rows(0)])
        return replace(made, loss=lambda model, batch: model(batch[0]).float().mean() * 1e-8)

    norms = []
    for scale in (1.0, 65536.0):
        autocast = Autocast(dtype=FP16, initial_scale=scale)
        engine = Engine(Graph(problem()), device="cpu", autocast=autocast)
        norms.append(engine.update("model").gradient["first.weight"].norm().item())
    exact = Engine(Graph(problem()), device="cpu").update("model").gradient["first.weight"]
    assert norms[0] == 0
    assert norms[1] == pytest.approx(exact.norm().item(), rel=0.01)


OVERFLOWING = [rows(0), rows(1, size=2000.0), rows(2), rows(3)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_overflow_skips_the_update_and_leaves_everything_as_it_was(accumulate):
    """The second update meets inputs whose scaled gradient float16 cannot hold."""
    problem = plain(
        [batch for batch in OVERFLOWING for _ in range(accumulate)],
        nn.BatchNorm1d(4),
        optimizer=adam(),
        scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        accumulate=accumulate,
    )
    # Batch normalisation before the overflow: its statistics have taken the batch in by then.
    problem.module.first, norm = nn.Identity(), problem.module.rest[0]
    problem.module.rest = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 1))
    problem = replace(problem, loss=lambda model, batch: (model(batch[0]) * batch[1]).mean())
    called = []
    autocast = Autocast(dtype=FP16, initial_scale=4096.0, growth_every=2)
    engine = Engine(Graph(problem), device="cpu", autocast=autocast)
    engine.after_update = lambda name, swept: called.append(engine.round)
    rounds = engine.rounds(4)
    assert next(rounds).skipped == ()
    before, position = everything(engine), int(norm.num_batches_tracked)
    done = next(rounds)
    assert done.skipped == ("model",)
    assert math.isnan(done.losses["model"])
    assert same_bits(everything(engine), before)
    assert engine.state_dict()["problems"]["model"]["scale"] == {"factor": 2048.0, "streak": 0}
    assert next(rounds).skipped == next(rounds).skipped == ()
    assert int(norm.num_batches_tracked) == position + 2 * accumulate
    assert engine.schedulers["model"].last_epoch == 3
    # Twice without overflow: it has doubled.
    assert engine.state_dict()["problems"]["model"]["scale"] == {"factor": 4096.0, "streak": 0}
    assert called == [1, 3, 4]


def test_an_overflow_of_the_upper_loss_asks_no_response_and_moves_nothing():
    batches = {"model": [rows(5)], "weights": OVERFLOWING}
    graph = reweighted(mlo.warm_started(), batches=batches)
    autocast = Autocast(dtype=FP16, initial_scale=256.0)
    engine = Engine(graph, device="cpu", autocast=autocast)
    engine.run(1, show_progress=False)
    engine.update("model")
    before = everything(engine)
    kept = {
        key: {n: t.clone() for n, t in memory["w"].items()}
        for key, memory in engine._updater.memories.items()
    }
    assert list(kept) == [("weights", "model")]
    swept = engine.update("weights")
    assert (swept.gradient, swept.outcomes) == ({}, {})
    assert same_bits(everything(engine), before)
    for key, memory in engine._updater.memories.items():
        assert same_bits(memory["w"], kept[key])
    scales = {n: p["scale"]["factor"] for n, p in engine.state_dict()["problems"].items()}
    assert scales == {"model": 256.0, "weights": 128.0}
    # The next upper batch is an ordinary one.
    done = engine.run(1, show_progress=False)
    assert done.skipped == ()
    assert done.outcomes["weights"]["model"].solver.startswith("warm_started")


def test_no_response_is_asked_for_what_has_overflowed():
    lengths = []

    def answer(inner, solution, upstream, vector, context):
        lengths.append(sum(float(t.norm()) for t in vector.values()))
        return {}, mlo.Outcome(solver="answer", code=mlo.Status.TRUNCATED)

    graph = reweighted(answer, batches={"model": [rows(5)], "weights": OVERFLOWING})
    autocast = Autocast(dtype=FP16, initial_scale=256.0)
    engine = Engine(graph, device="cpu", autocast=autocast)
    with pytest.warns(mlo.ResponseWarning):
        skipped = [done.skipped for done in engine.rounds(3)]
    assert skipped == [(), ("weights",), ()]
    assert len(lengths) == 2
    assert all(map(math.isfinite, lengths))


def test_a_skipped_update_is_not_made_again_by_an_unrolled_response():
    def program(batches, steps):
        return Graph(
            Problem(
                name="x",
                module=Vector(1.0),
                loss=lambda x, a, batch: (x.value - a.value * batch).square().sum() / 2,
                batches=batches,
                steps=steps,
                optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
                response=mlo.unrolled(),
            ),
            Problem(
                name="a",
                module=Vector(2.0),
                loss=lambda x: x.value.square().sum() / 2,
                optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            ),
        )

    found = []
    for batches, steps, autocast in (
        ([1.0, torch.nan, 3.0], 3, Autocast(dtype=FP16)),
        ([1.0, 3.0], 2, None),
    ):
        graph = program(batches, steps)
        engine = Engine(graph, device="cpu", autocast=autocast)
        done = engine.run(1, show_progress=False)
        assert "made again" not in done.outcomes["a"]["x"].message
        found.append(snapshot(graph))
    assert done.skipped == ()
    assert same_bits(*found)


def test_what_is_never_finite_ends_the_run():
    """65,536 is halved sixteen times to one; below it nothing can be an overflow."""
    problem = replace(plain([rows(0)]), loss=lambda model, batch: model(batch[0]).sum() * torch.nan)
    engine = Engine(Graph(problem), device="cpu", autocast=Autocast(dtype=FP16))
    before = snapshot(engine.graph)
    with pytest.raises(NonFiniteError, match="problem 'model', round 17: loss is nan"):
        engine.run(1000, show_progress=False)
    assert engine.round == 16
    assert same_bits(snapshot(engine.graph), before)


def test_bounds_are_those_of_the_gradient_and_not_of_the_scaled_one():
    gradients = [
        Engine(
            Graph(plain([rows(0)], clipping=Clipping(direct=1e-2))), device="cpu", autocast=autocast
        )
        .update("model")
        .gradient
        for autocast in (None, Autocast(dtype=FP16, initial_scale=512.0))
    ]
    assert relative_error(gradients[1], gradients[0]) < 5e-3


def test_the_scale_is_part_of_the_state():
    def engine():
        return Engine(
            Graph(plain(OVERFLOWING)),
            device="cpu",
            autocast=Autocast(dtype=FP16, initial_scale=4096.0, growth_every=3),
        )

    first, second = engine(), engine()
    first.run(3, show_progress=False)
    second.load_state_dict(first.state_dict())
    scale = second.state_dict()["problems"]["model"]["scale"]
    assert scale == {"factor": 2048.0, "streak": 1}
    for _ in range(2):
        for each in (first, second):
            each.run(1, show_progress=False)
    assert same_bits(snapshot(first.graph), snapshot(second.graph))
    assert second.state_dict()["problems"]["model"]["scale"]["factor"] == 4096.0


events = st.lists(st.booleans(), max_size=60)


@given(start=st.sampled_from([1.0, 3.0, 256.0, 2.0**99]), every=st.integers(1, 5), overflows=events)
@settings(max_examples=40)
def test_the_scale_halves_at_an_overflow_and_doubles_after_a_streak(start, every, overflows):
    autocast = Autocast(dtype=FP16, initial_scale=start, growth_every=every)
    scale, factor, streak = LossScale(autocast), start, 0
    for is_overflow in overflows:
        if is_overflow:
            scale.shrink()
            factor, streak = factor / 2, 0
        else:
            scale.succeeded()
            streak += 1
            if streak == every:
                factor, streak = min(2 * factor, 2.0**100), 0
        assert scale.factor == factor
        assert scale.is_exhausted == (factor < 1)
        twin = LossScale(autocast)
        twin.load_state_dict(scale.state_dict())
        scale = twin
