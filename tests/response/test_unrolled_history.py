"""`unrolled` on updates that were recorded: mini-batches, random numbers, schedules, truncation."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from mlo import tree
from mlo.context import context_of
from mlo.history import Recorder
from mlo.randomness import capture, restore, unchanged
from mlo.response.unrolled import unroll, unrolled
from tests.optimizers import DIFFERENTIABLE
from tests.programs import flat, network, relative_error

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Dropping:
    """The loss of a network with dropout, each example weighted by the problem above."""

    model: nn.Module
    batch: Any
    random_state: Any

    def on(self, batch, random_state=None):
        return replace(self, batch=batch, random_state=random_state)

    def __call__(self, own, above):
        with unchanged(CPU):
            restore(self.random_state, CPU)
            inputs, targets, examples = self.batch
            errors = (torch.func.functional_call(self.model, own, inputs) - targets).square()
            return (above["a"]["a"][examples].exp() * errors.squeeze(1)).mean()


def batches(count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    for position in range(count):
        inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64).to(dtype)
        examples = (torch.arange(8) + 5 * position) % 20
        yield inputs, inputs.sum(1, keepdim=True).sin(), examples


class Trained:
    """A network that an engine would have trained: the loop, its record and where it ended."""

    def __init__(self, make, updates=6, before=3, dtype=torch.float64, schedule=True):
        torch.manual_seed(11)
        self.above = (0.3 * torch.randn(20)).to(dtype)
        self.model = network(nn.Dropout(0.3)).to(dtype)
        self.parameters = dict(self.model.named_parameters())
        optimizer = make(list(self.parameters.values()))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        recorder = Recorder(block=updates)
        inner = Dropping(self.model, None, None)
        self.drawn = []
        for position, batch in enumerate(batches(before + updates, dtype)):
            if position == before:
                recorder.begin_block()
                self.drawn.clear()
            recorder.before_update(self.parameters, optimizer, batch, CPU)
            at = inner.on(batch, capture(CPU))
            self.drawn.append((at, scheduler.get_last_lr()[0]))
            torch.rand(1)  # the loss would have drawn
            at(self.parameters, {"a": {"a": self.above}}).backward()
            optimizer.step()
            optimizer.zero_grad()
            if schedule:
                scheduler.step()
        self.inner = at
        self.context = replace(
            context_of("model", self.parameters, optimizer), history=recorder.history
        )
        generator = torch.Generator().manual_seed(5)
        self.vector = {
            n: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
            for n, p in self.parameters.items()
        }

    def answer(self, response, vector=None):
        found, outcome = response(
            self.inner,
            tree.constants(self.parameters),
            {"a": {"a": self.above}},
            self.vector if vector is None else vector,
            self.context,
        )
        return found["a"], outcome


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_updates_made_again_end_at_the_parameters(name, dtype):
    trained = Trained(DIFFERENTIABLE[name], dtype=dtype)
    for above in (trained.above, trained.above.clone().requires_grad_()):
        upstream = {"a": {"a": above}}
        end = unroll(trained.inner, tree.constants(trained.parameters), upstream, trained.context)
        tolerance = 1e-5 if dtype == torch.float32 else {"nadam": 1e-6}.get(name, 1e-12)
        assert relative_error(tree.constants(end), tree.constants(trained.parameters)) < tolerance
    assert trained.answer(unrolled())[1].note == ""


def by_hand(trained, optimizer_step, kept):
    """Return vᵀ ∂θ_T/∂a by autograd through a loop that uses no optimizer."""
    above = trained.above.clone().requires_grad_()
    history = trained.context.history
    params, state = {n: t.requires_grad_() for n, t in tree.constants(history.start).items()}, {}
    for name in params:
        state[name] = history.state[name]
    for position, (inner, rate) in enumerate(trained.drawn):
        if position == len(trained.drawn) - kept:
            params = tree.leaves(params)
            state = {n: {k: v.detach() for k, v in s.items()} for n, s in state.items()}
        loss = inner(params, {"a": {"a": above}})
        gradient = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        moved = {
            n: optimizer_step(p, g, state[n], rate)
            for (n, p), g in zip(params.items(), gradient, strict=True)
        }
        params = {n: m[0] for n, m in moved.items()}
        state = {n: m[1] for n, m in moved.items()}
    total = tree.dot(trained.vector, params)
    return {"a": torch.autograd.grad(total, above)[0]}


def adam_by_hand(param, gradient, state, rate):
    count = state["step"].double() + 1
    first = 0.9 * state["exp_avg"] + 0.1 * gradient
    second = 0.999 * state["exp_avg_sq"] + 0.001 * gradient**2
    scale = (second / (1 - 0.999**count)).sqrt() + 1e-8
    moved = param - rate * first / (1 - 0.9**count) / scale
    return moved, {"step": count, "exp_avg": first, "exp_avg_sq": second}


def momentum_by_hand(param, gradient, state, rate):
    gradient = gradient + 0.1 * param
    buffer = 0.9 * state["momentum_buffer"] + 0.6 * gradient
    return param - rate * buffer, {"momentum_buffer": buffer}


@pytest.mark.parametrize("kept", [6, 4, 1])
@pytest.mark.parametrize(
    ("name", "optimizer_step"), [("adam", adam_by_hand), ("momentum, damped", momentum_by_hand)]
)
def test_it_is_hand_written_reverse_mode_also_where_truncated(name, optimizer_step, kept):
    trained = Trained(DIFFERENTIABLE[name])
    found, outcome = trained.answer(unrolled(kept))
    assert relative_error(found, by_hand(trained, optimizer_step, kept)) < 1e-10
    assert outcome.converged


def test_more_steps_than_recorded_are_all():
    trained = Trained(DIFFERENTIABLE["adam"])
    whole, longer = (trained.answer(unrolled(k))[0]["a"] for k in (None, 50))
    assert torch.equal(whole, longer)


def test_it_is_the_derivative_of_training():
    """Against central differences of the whole loop, made again for other values above."""
    trained = Trained(DIFFERENTIABLE["adam"])
    found, _ = trained.answer(unrolled())
    direction = torch.randn(20, generator=torch.Generator().manual_seed(2)).double()

    def end(change):
        upstream = {"a": {"a": trained.above + change * direction}}
        start = tree.constants(trained.parameters)
        return tree.dot(trained.vector, unroll(trained.inner, start, upstream, trained.context))

    measured = (end(1e-5) - end(-1e-5)) / 2e-5
    assert torch.allclose(found["a"] @ direction, measured, rtol=1e-6)


def test_what_truncation_leaves_out_shrinks_with_every_update_kept():
    """For gradient descent by the factor 1 - ξλ (Shaban et al., 2019)."""
    curvature, rate, updates = torch.tensor([1.0, 4.0]).double(), 0.1, 12
    parameter = nn.Parameter(torch.ones(2).double())
    optimizer, recorder = torch.optim.SGD([parameter], lr=rate), Recorder(block=updates)

    @dataclass(frozen=True)
    class Bowl:
        def on(self, batch, random_state=None):
            return self

        def __call__(self, own, above):
            return (curvature * own["x"] ** 2 / 2 - own["x"] * above["a"]["a"]).sum()

    above = {"a": {"a": torch.tensor([1.0, -2.0]).double()}}
    recorder.begin_block()
    for _ in range(updates):
        recorder.before_update({"x": parameter}, optimizer, None, CPU)
        Bowl()({"x": parameter}, above).backward()
        optimizer.step()
        optimizer.zero_grad()
    context = replace(context_of("x", {"x": parameter}, optimizer), history=recorder.history)
    vector = {"x": torch.ones(2).double()}

    def found(steps):
        solution = {"x": parameter.detach()}
        return unrolled(steps)(Bowl(), solution, above, vector, context)[0]["a"]["a"]

    whole = found(None)
    for kept in range(1, updates):
        law = ((1 - rate * curvature) ** kept - (1 - rate * curvature) ** updates) / curvature
        assert torch.allclose(whole - found(kept), law, rtol=1e-10)


def test_batches_random_numbers_and_schedule_are_each_updates_own():
    trained = Trained(DIFFERENTIABLE["adam"])
    found, _ = trained.answer(unrolled())
    history = trained.context.history
    last = history.updates[-1]
    for field in ("batch", "random_state", "hyperparameters"):
        updates = tuple(replace(u, **{field: getattr(last, field)}) for u in history.updates)
        trained.context = replace(trained.context, history=replace(history, updates=updates))
        other, outcome = trained.answer(unrolled())
        assert relative_error(other, found) > 1e-3
        if field != "hyperparameters":
            assert "made again, end" in outcome.message


def test_a_loss_that_has_changed_since_is_reported():
    trained = Trained(DIFFERENTIABLE["sgd"])
    trained.above += 2.0
    _, outcome = trained.answer(unrolled())
    assert "the loss read something that has changed since" in outcome.message


def test_the_record_is_not_used_up():
    trained = Trained(DIFFERENTIABLE["rmsprop, both"])
    first, second = (flat(trained.answer(unrolled())[0]) for _ in range(2))
    assert torch.equal(first, second)


def test_a_dead_unit_gives_no_nan():
    """Its gradient has always been zero, so that Adam's second moment is zero too."""
    trained = Trained(DIFFERENTIABLE["adam"], before=0)
    with torch.no_grad():
        for update in trained.context.history.updates:
            update.batch[0][:, 0] = 0.0  # an input that is always zero has no gradient
    found, _ = trained.answer(unrolled())
    assert torch.isfinite(found["a"]).all()
    assert found["a"].any()
