import functools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam, RMSprop

from mlo import tree
from mlo.optimizer_derivative import pulled_back
from mlo.testing.strategies import seeds
from tests.optimizers import (
    CLOSED,
    DIFFERENTIABLE,
    OTHERS,
    deeply_copied,
    measured_derivative,
    random_parameters,
    random_vector,
    real_step,
    train,
)
from tests.programs import relative_error

STEPS = [0, 1, 2, 10, 500]


def by_torch(parameters, optimizer, make, at, vector):
    """Return vᵀ ∂u/∂g by autograd through one real step from a copy of the live state."""
    copies, other = deeply_copied(parameters, optimizer, make)
    variables = tree.leaves(at)
    other.defaults["differentiable"] = True
    moved = {}
    for group in other.param_groups:
        group.update(differentiable=True, foreach=False)
    for name, leaf in copies.items():
        moved[name] = leaf.detach().clone()
        moved[name].grad = variables[name]
        if leaf in other.state:
            state = other.state[moved[name]] = other.state.pop(leaf)
            if "step" in state:
                state["step"] = state["step"].double()  # bias corrections in full precision
        for group in other.param_groups:
            group["params"] = [moved[name] if p is leaf else p for p in group["params"]]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # so are those of a first step
    try:
        other.step()
    finally:
        torch.set_default_dtype(before)
    found = torch.autograd.grad(
        [t for t in moved.values() if t.requires_grad],
        list(variables.values()),
        [-vector[n] for n, t in moved.items() if t.requires_grad],
    )
    return dict(zip(variables, found, strict=True))


def ours(parameters, optimizer, at, vector):
    return pulled_back(optimizer, parameters, tree.constants(parameters), at, vector)


def check(make, steps, seed=0):
    """Compare with torch, to 1e-12 of the scale of an update per unit of gradient."""
    parameters = random_parameters(seed)
    optimizer = make(list(parameters.values()))
    train(parameters, optimizer, steps, seed=seed + 1)
    at, vector = random_vector(seed + 7), random_vector(seed + 8)
    expected = by_torch(parameters, optimizer, make, at, vector)
    found = ours(parameters, optimizer, at, vector)
    for name in expected:
        assert found[name].dtype == torch.float64
        assert torch.allclose(found[name], expected[name], rtol=1e-12, atol=1e-12)


def is_first_momentum(options, steps):
    # There torch loses the derivative, see test_optimizer_step.
    return steps == 0 and options.get("momentum", 0) != 0


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", CLOSED)
def test_the_closed_form_is_the_derivative_of_the_real_step(name, steps):
    if "momentum" in name or "nesterov" in name:
        steps = max(steps, 1)
    check(CLOSED[name], steps)


rates = st.floats(1e-4, 1.0)
decays = st.sampled_from([0.0, 1e-4, 0.3])
below_one = st.floats(0.0, 0.999)
sgd_options = st.fixed_dictionaries(
    {
        "lr": rates,
        "momentum": st.one_of(st.just(0.0), st.floats(0.01, 0.99)),
        "dampening": st.floats(0.0, 0.9),
        "weight_decay": decays,
        "maximize": st.booleans(),
    }
)
nesterov_options = st.fixed_dictionaries(
    {
        "lr": rates,
        "momentum": st.floats(0.01, 0.99),
        "weight_decay": decays,
        "nesterov": st.just(True),
    }
)
adam_options = st.fixed_dictionaries(
    {
        "lr": rates,
        "betas": st.tuples(below_one, st.floats(0.1, 0.9999)),
        "eps": st.floats(1e-10, 1e-2),
        "weight_decay": decays,
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
    }
)
rmsprop_options = st.fixed_dictionaries(
    {
        "lr": rates,
        "alpha": st.floats(0.1, 0.999),
        "eps": st.floats(1e-10, 1e-2),
        "weight_decay": decays,
        "momentum": st.sampled_from([0.0, 0.5, 0.99]),
        "centered": st.booleans(),
        "maximize": st.booleans(),
    }
)
drawn = st.one_of(
    st.tuples(st.just(SGD), sgd_options),
    st.tuples(st.just(SGD), nesterov_options),
    st.tuples(st.sampled_from([Adam, AdamW]), adam_options),
    st.tuples(st.just(RMSprop), rmsprop_options),
)


@settings(max_examples=150, deadline=None)
@given(drawn, st.sampled_from([0, 1, 2, 10]), seeds)
def test_the_closed_form_holds_for_any_hyperparameters(optimizer, steps, seed):
    make, options = optimizer
    assume(not (make is SGD and is_first_momentum(options, steps)))
    check(functools.partial(make, **options), steps, seed)


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_it_is_the_measured_derivative_of_the_real_update(name, steps):
    """No differentiable mode of torch takes part in this reference."""
    parameters = random_parameters(0)
    optimizer = DIFFERENTIABLE[name](list(parameters.values()))
    train(parameters, optimizer, steps)
    at, direction, vector = (random_vector(seed) for seed in (7, 8, 9))
    measured = measured_derivative(parameters, optimizer, DIFFERENTIABLE[name], at, direction)
    found = tree.dot(ours(parameters, optimizer, at, vector), direction)
    assert torch.allclose(found, -tree.dot(vector, measured), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("name", CLOSED)
def test_a_subclass_is_differentiated_by_autograd_and_agrees(name, steps):
    parameters = random_parameters(0)
    optimizer = CLOSED[name](list(parameters.values()))
    train(parameters, optimizer, steps)
    at, vector = random_vector(7), random_vector(8)
    closed = ours(parameters, optimizer, at, vector)
    optimizer.__class__ = type("Mine", (type(optimizer),), {})
    assert relative_error(ours(parameters, optimizer, at, vector), closed) < 1e-12


@pytest.mark.parametrize(("steps", "factor"), [(2, 4.25), (10, 6.53), (50, 4.50), (500, 1.594)])
def test_peer_bug_missing_bias_correction(steps, factor):
    """Without it Adam's derivative is (1 - β₁ᵗ) / √(1 - β₂ᵗ) times too large: 4.3 at step 2."""
    parameters = random_parameters(0)
    optimizer = Adam(list(parameters.values()), lr=0.01, eps=1e-12)
    train(parameters, optimizer, steps - 1)
    at, vector = random_vector(7), random_vector(8)
    found = ours(parameters, optimizer, at, vector)
    peer = {}
    for name, parameter in parameters.items():
        # The published formula, from the moments before the step.
        first, second = (optimizer.state[parameter][k] for k in ("exp_avg", "exp_avg_sq"))
        mean = 0.9 * first + 0.1 * at[name]
        square = 0.999 * second + 0.001 * at[name] ** 2
        slope = 0.1 / square.sqrt() - mean * 0.001 * at[name] / square**1.5
        peer[name] = 0.01 * slope * vector[name]
    exact = (1 - 0.9**steps) / (1 - 0.999**steps) ** 0.5
    assert exact == pytest.approx(factor, abs=5e-3)
    assert relative_error(tree.scaled(found, exact), peer) < 1e-6
    assert relative_error(found, by_torch(parameters, optimizer, Adam, at, vector)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_at_zero_gradient_and_second_moment_takes_the_limit(dtype, amsgrad):
    weight = nn.Parameter(torch.ones(2, dtype=dtype))
    optimizer = Adam([weight], lr=0.01, amsgrad=amsgrad)
    zero, one = torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)
    for steps in range(4):
        found = ours({"w": weight}, optimizer, {"w": zero}, {"w": one})["w"]
        # u = ξ/c₁ · (1-β₁) g / (√(1-β₂)|g|/√c₂ + ε), whose slope at 0 is the rate over ε.
        expected = 0.01 * 0.1 / (1 - 0.9 ** (steps + 1)) / 1e-8
        assert found.dtype == dtype
        assert torch.allclose(found, torch.full_like(found, expected))
        real_step({"w": weight}, optimizer, {"w": zero})


@pytest.mark.parametrize("options", [{}, {"centered": True}, {"momentum": 0.9}])
def test_rmsprop_at_zero_gradient_and_second_moment_takes_the_limit(options):
    weight = nn.Parameter(torch.ones(1).double())
    optimizer = RMSprop([weight], lr=0.01, eps=1e-6, **options)
    zero, one = {"w": torch.zeros(1).double()}, {"w": torch.ones(1).double()}
    found = ours({"w": weight}, optimizer, zero, one)["w"]
    assert torch.allclose(found, torch.full_like(found, 0.01 / 1e-6))


def test_each_group_has_its_own_hyperparameters_and_what_is_not_held_does_not_move():
    parameters = random_parameters(0)
    groups = [
        {"params": [parameters["p0"]], "lr": 0.5},
        {"params": [parameters["p2"]], "momentum": 0.9, "nesterov": True},
    ]
    optimizer = SGD(groups, lr=0.1)
    at, vector = random_vector(7), random_vector(8)
    found = ours(parameters, optimizer, at, vector)
    assert torch.allclose(found["p0"], 0.5 * vector["p0"])
    assert torch.equal(found["p1"], torch.zeros(()).double())
    assert torch.allclose(found["p2"], 0.19 * vector["p2"])


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_by_autograd_what_is_not_held_does_not_move_either(make):
    parameters = random_parameters(0)
    optimizer = make([parameters["p0"]])
    found = ours(parameters, optimizer, random_vector(7), random_vector(8))
    assert list(found) == ["p0", "p1", "p2"]
    assert found["p0"].any()
    assert not found["p1"].any()
    assert not found["p2"].any()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(DIFFERENTIABLE)), seeds, st.floats(-3, 3))
def test_it_is_linear_in_the_vector(name, seed, factor):
    parameters = random_parameters(0)
    optimizer = DIFFERENTIABLE[name](list(parameters.values()))
    train(parameters, optimizer, 3)
    at, one, two = (random_vector(seed + k) for k in range(3))
    joined = tree.plus(one, tree.scaled(two, factor))
    parts = tree.plus(
        ours(parameters, optimizer, at, one),
        tree.scaled(ours(parameters, optimizer, at, two), factor),
    )
    whole = ours(parameters, optimizer, at, joined)
    assert tree.norm(tree.minus(whole, parts)) <= 1e-12 * (1 + tree.norm(parts))


def test_a_rate_of_zero_gives_zero():
    parameters = random_parameters(0)
    for make in (SGD, Adam, RMSprop, NAdam):
        optimizer = make(list(parameters.values()), lr=0.0)
        found = ours(parameters, optimizer, random_vector(7), random_vector(8))
        assert not any(t.any() for t in found.values())


def test_the_live_optimizer_is_left_alone():
    parameters = random_parameters(0)
    for make in DIFFERENTIABLE.values():
        optimizer = make(list(parameters.values()))
        train(parameters, optimizer, 2)
        copies, other = deeply_copied(parameters, optimizer, make)
        ours(parameters, optimizer, random_vector(7), random_vector(8))
        for name, parameter in parameters.items():
            assert torch.equal(parameter, copies[name])
            assert parameter.grad is None
            for key, value in other.state.get(copies[name], {}).items():
                kept = optimizer.state[parameter][key]
                assert torch.equal(torch.as_tensor(kept), torch.as_tensor(value))
