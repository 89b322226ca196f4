import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adafactor, Adam, AdamW, Muon, RMSprop, SparseAdam

from mlo import ResponseError, tree
from mlo.optimizer_step import check_differentiable, hyperparameters_of, state_of, step
from tests.optimizers import (
    CLOSED,
    DIFFERENTIABLE,
    deeply_copied,
    gradient,
    measured_derivative,
    random_parameters,
    random_vector,
    real_step,
    train,
)
from tests.programs import relative_error

# These keep a factor of their update in float32, and torch's differentiable mode multiplies there.
TOLERANCE = {"nadam": 1e-6}


@pytest.fixture(params=DIFFERENTIABLE, ids=DIFFERENTIABLE)
def name(request):
    return request.param


def replayed(parameters, optimizer, steps, seed=1):
    """Make the steps of `train` by the pure function."""
    params, state = tree.constants(parameters), state_of(optimizer, parameters)
    options = hyperparameters_of(optimizer, parameters)
    for position in range(steps):
        given = gradient(parameters, seed + position)
        params, state = step(optimizer, params, given, state, options)
    return params, state


@pytest.mark.parametrize("before", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_the_real_optimizer(name, dtype, before):
    parameters = random_parameters(0, dtype)
    optimizer = DIFFERENTIABLE[name](list(parameters.values()))
    train(parameters, optimizer, before)
    found, state = replayed(parameters, optimizer, 6, seed=50)
    train(parameters, optimizer, 6, seed=50)
    tolerance = TOLERANCE.get(name, 1e-14) if dtype == torch.float64 else 1e-6
    for key, parameter in parameters.items():
        assert found[key].dtype == dtype
        assert torch.allclose(found[key], parameter, rtol=tolerance, atol=tolerance)
        for entry, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                assert torch.allclose(
                    state[key][entry].to(value.dtype), value, rtol=10 * tolerance, atol=1e-6
                )


@pytest.mark.parametrize("before", [0, 1, 7])
def test_the_derivative_is_that_of_the_real_update(name, before):
    parameters = random_parameters(0)
    optimizer = DIFFERENTIABLE[name](list(parameters.values()))
    train(parameters, optimizer, before)
    at, direction, weights = (random_vector(seed) for seed in (7, 8, 9))
    measured = measured_derivative(parameters, optimizer, DIFFERENTIABLE[name], at, direction)
    variables = tree.leaves(at)
    moved, _ = step(
        optimizer,
        tree.constants(parameters),
        variables,
        state_of(optimizer, parameters),
        hyperparameters_of(optimizer, parameters),
    )
    found = torch.autograd.grad(tree.dot(weights, moved), list(variables.values()))
    total = tree.dot(dict(zip(at, found, strict=True)), direction)
    assert torch.allclose(total, tree.dot(weights, measured), rtol=1e-5, atol=1e-8)


def test_the_state_passes_the_derivative_on():
    """Two steps of Adam, differentiated with respect to the first gradient."""
    parameters = random_parameters(0)
    optimizer = Adam(list(parameters.values()), lr=0.1)
    options = hyperparameters_of(optimizer, parameters)
    first, second, direction, weights = (random_vector(seed) for seed in (3, 4, 5, 6))

    def end(change):
        given = {n: first[n] + change * direction[n] for n in first}
        params, state = step(optimizer, tree.constants(parameters), given, {}, options)
        return tree.dot(weights, step(optimizer, params, second, state, options)[0])

    change = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(end(change), change)
    measured = (end(torch.tensor(1e-5)) - end(torch.tensor(-1e-5))) / 2e-5
    assert torch.allclose(found, measured, rtol=1e-6)


def test_the_first_momentum_is_differentiated():
    """torch starts the buffer from a detached gradient, and so loses this derivative."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = SGD([weight], lr=0.1, momentum=0.9, dampening=0.5, differentiable=True)
    given = torch.ones(1, dtype=torch.float64, requires_grad=True)
    options = hyperparameters_of(optimizer, {"w": weight})
    moved, _ = step(optimizer, {"w": weight.detach()}, {"w": given}, {}, options)
    assert torch.autograd.grad(moved["w"].sum(), given)[0].item() == -0.1
    torch_moved = weight.detach().clone()
    torch_moved.grad = given
    optimizer.param_groups[0]["params"] = [torch_moved]
    optimizer.step()
    assert torch.equal(torch_moved, moved["w"])
    assert not torch_moved.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_entries_whose_gradient_has_always_been_zero_give_no_nan(name, dtype, steps):
    """A dead ReLU: √v has an infinite slope at v = 0."""
    parameters = random_parameters(0, dtype)
    optimizer = DIFFERENTIABLE[name](list(parameters.values()))
    options = hyperparameters_of(optimizer, parameters)
    factor = torch.ones((), dtype=dtype, requires_grad=True)
    params, state = tree.constants(parameters), state_of(optimizer, parameters)
    for position in range(steps):
        given = {n: factor * g for n, g in gradient(parameters, position).items()}
        params, state = step(optimizer, params, given, state, options)
    dead = torch.stack([params["p0"].view(-1)[0], params["p2"][0]])
    everything = tree.dot(params, params)
    assert torch.isfinite(torch.autograd.grad(everything, factor, retain_graph=True)[0])
    (first,) = torch.autograd.grad(dead.sum(), factor, create_graph=True)
    assert first == 0
    if first.requires_grad:
        (second,) = torch.autograd.grad(first, factor, allow_unused=True)
        assert second is None or second == 0


@pytest.mark.parametrize("make", [Adam, AdamW, RMSprop], ids=lambda m: m.__name__)
def test_torch_alone_gives_nan_for_a_dead_entry(make):
    """What the second moment kept above zero is for."""
    weight = torch.ones(2)
    weight.grad = torch.tensor([0.0, 1.0], requires_grad=True)
    make([weight], differentiable=True).step()
    (found,) = torch.autograd.grad(weight.sum(), weight.grad)
    assert torch.isnan(found[0])


def test_a_learning_rate_of_zero_moves_nothing_but_the_state():
    """Warm-up schedules begin there; Adam divides by it in its differentiable mode."""
    parameters = random_parameters(0)
    optimizer = AdamW(list(parameters.values()), lr=0.0)
    given = tree.leaves(gradient(parameters, 1))
    options = hyperparameters_of(optimizer, parameters)
    moved, state = step(optimizer, tree.constants(parameters), given, {}, options)
    real_step(parameters, optimizer, given)
    for key, parameter in parameters.items():
        assert torch.equal(moved[key], parameter)
        assert torch.equal(state[key]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    again, _ = step(optimizer, moved, given, state, {n: {**options[n], "lr": 0.1} for n in options})
    total = torch.stack([t.sum() for t in again.values()]).sum()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, list(given.values())))


def test_groups_missing_gradients_and_parameters_that_are_not_held():
    parameters = random_parameters(0)
    groups = [{"params": [parameters["p0"]], "lr": 0.5}, {"params": [parameters["p2"]]}]
    optimizer = SGD(groups, lr=0.1, weight_decay=0.1)
    given = {"p0": torch.ones(3, 2).double(), "p1": torch.ones(()).double()}
    before = {n: p.detach().clone() for n, p in parameters.items()}
    moved, state = step(optimizer, before, given, {}, hyperparameters_of(optimizer, parameters))
    assert torch.allclose(moved["p0"], 0.95 * before["p0"] - 0.5)
    assert moved["p1"] is before["p1"]
    assert moved["p2"] is before["p2"]
    assert set(state) == {"p0"}


@pytest.mark.parametrize("steps", [0, 3])
def test_the_live_optimizer_is_left_alone(name, steps):
    parameters = random_parameters(0)
    optimizer = DIFFERENTIABLE[name](list(parameters.values()))
    train(parameters, optimizer, steps)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("hook"))
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    copies, other = deeply_copied(parameters, optimizer, DIFFERENTIABLE[name])
    counted = getattr(optimizer, "_opt_called", None)
    replayed(parameters, optimizer, 2)
    assert calls == []
    assert getattr(optimizer, "_opt_called", None) == counted
    assert scheduler.last_epoch == 0
    for key, parameter in parameters.items():
        assert parameter.grad is None
        assert torch.equal(parameter, copies[key])
        for entry, value in other.state.get(copies[key], {}).items():
            assert torch.equal(
                torch.as_tensor(value), torch.as_tensor(optimizer.state[parameter][entry])
            )
    for mine, theirs in zip(optimizer.param_groups, other.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k != "params"} == {
            k: v for k, v in theirs.items() if k != "params"
        }


def test_hyperparameters_and_state_are_copies():
    weight = nn.Parameter(torch.ones(2))
    optimizer = Adam([weight], lr=torch.tensor(0.1))
    real_step({"w": weight}, optimizer, {"w": torch.ones(2)})
    options, state = (
        hyperparameters_of(optimizer, {"w": weight}),
        state_of(optimizer, {"w": weight}),
    )
    optimizer.param_groups[0]["lr"].fill_(7.0)
    optimizer.state[weight]["exp_avg"].fill_(7.0)
    assert options["w"]["lr"] == torch.tensor(0.1)
    assert relative_error({"w": state["w"]["exp_avg"]}, {"w": torch.full((2,), 0.1)}) < 1e-6


def test_sparse_gradients_are_made_dense():
    weight = nn.Parameter(torch.ones(3, 2))
    optimizer = SGD([weight], lr=0.5)
    given = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]).to_sparse(1)
    options = hyperparameters_of(optimizer, {"w": weight})
    moved, _ = step(optimizer, {"w": weight.detach()}, {"w": given}, {}, options)
    assert torch.equal(moved["w"], torch.tensor([[0.5, 0.5], [1.0, 1.0], [1.0, 1.0]]))


@pytest.mark.parametrize("make", [SparseAdam, LBFGS, Adafactor, Muon], ids=lambda m: m.__name__)
def test_an_optimizer_that_cannot_be_differentiated_is_refused(make):
    optimizer = make([nn.Parameter(torch.ones(2, 2))])
    message = f"problem 'model': .* which {make.__name__} does not offer"
    with pytest.raises(ResponseError, match=message):
        check_differentiable("model", optimizer)
    optimizer.load_state_dict(optimizer.state_dict())  # torch adds the default when it loads
    with pytest.raises(ResponseError, match=message):
        check_differentiable("model", optimizer)


@pytest.mark.parametrize("make", CLOSED.values(), ids=CLOSED)
def test_an_optimizer_that_can_is_returned(make):
    optimizer = make([nn.Parameter(torch.ones(2))])
    assert check_differentiable("model", optimizer) is optimizer
