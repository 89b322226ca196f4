import pytest
import torch
from torch import nn

import mlo
from mlo import Context, Graph, Problem, hypergradient
from mlo.context import context_of
from mlo.errors import ResponseError
from tests.programs import Vector


def known(name, module, optimizer):
    return context_of(name, dict(module.named_parameters()), optimizer)


def test_without_an_optimizer_nothing_is_known():
    context = known("x", nn.Linear(1, 1), None)
    assert (context.problem, context.rates, context.decay, context.optimizer) == ("x", {}, {}, None)


def test_each_parameter_has_the_rate_and_decay_of_its_group():
    model = nn.Linear(2, 1)
    groups = [
        {"params": [model.weight], "lr": 0.5, "weight_decay": 0.1},
        {"params": [model.bias], "lr": torch.tensor(0.25)},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    context = known("x", model, optimizer)
    assert context.rates == {"weight": 0.5, "bias": 0.25}
    assert context.decay == {"weight": 0.1}
    assert context.optimizer is optimizer


def test_the_rate_that_a_scheduler_has_set_is_read():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    scheduler.step()
    assert known("x", model, optimizer).rates == {"weight": 0.5, "bias": 0.5}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_coupled_weight_decay_is_added_as_it_is(optimizer):
    model = nn.Linear(2, 1, bias=False)
    context = known("x", model, optimizer(model.parameters(), lr=0.1, weight_decay=0.3))
    assert context.decay == {"weight": 0.3}


def test_decoupled_weight_decay_is_unknown_before_the_first_step():
    model = nn.Linear(2, 1, bias=False)
    context = known("x", model, torch.optim.AdamW(model.parameters(), weight_decay=0.3))
    assert context.decay == {}
    assert "decoupled weight decay 0.3 of AdamW is not counted" in context.unseen


def trained_with_noise(optimizer, targets):
    """Minimise ``(x - target)²`` with gradient noise of alternating sign, ±9, later ±3."""
    x = Vector(*targets)
    live = optimizer(list(x.parameters()))
    for step in range(2000):
        noise = (9.0 if step < 200 else 3.0) * (-1) ** step
        x.value.grad = 2.0 * (x.value.detach() - torch.tensor(targets).double()) + noise
        live.step()
    return x, live


SHARED = {"lr": 1e-2, "weight_decay": 0.5, "betas": (0.9, 0.99)}
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, **SHARED),
    "amsgrad": lambda p: torch.optim.AdamW(p, **SHARED, amsgrad=True),
    "adam": lambda p: torch.optim.Adam(p, **SHARED),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_times_weights_balances_the_gradient_where_the_optimizer_comes_to_rest(name):
    # Noise makes Adam's preconditioner differ from one, so that the kinds of decay differ.
    targets = [0.5, -1.0, 2.0]
    x, live = trained_with_noise(OPTIMIZERS[name], targets)
    decay = torch.as_tensor(known("x", x, live).decay["value"]).double()
    gradient = 2.0 * (x.value.detach() - torch.tensor(targets).double())
    assert torch.allclose(decay * x.value.detach(), -gradient, rtol=0.005)
    # What Adam divides by: the root of the mean square of gradient and noise, or its largest.
    rest = (gradient.square() + 3.0**2).sqrt()
    scale = decay / 0.5 * torch.ones(3).double()
    if name == "amsgrad":
        assert (scale > 1.5 * rest).all()
    else:
        assert torch.allclose(scale, rest if name == "adamw" else torch.ones(3).double(), rtol=0.01)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_response_is_the_derivative_of_where_the_optimizer_comes_to_rest(name):
    step = 0.01
    x, live = trained_with_noise(OPTIMIZERS[name], [0.02, 0.02 + step, 0.02 - step])
    measured = float((x.value[1] - x.value[2]).detach()) / (2 * step)
    above = Vector(0.02, 0.02 + step, 0.02 - step)
    graph = Graph(
        Problem(
            name="x",
            module=x,
            loss=lambda x, above: (x.value - above.value).square().sum(),
            optimizer=live,
            response=mlo.exact(),
        ),
        Problem(name="above", module=above, loss=lambda x: x.value[0]),
    )
    found = hypergradient(graph, "above").gradient["value"]
    assert float(found[0]) == pytest.approx(measured, rel=0.01)
    assert measured < 0.9


@pytest.mark.parametrize("amsgrad", [False, True])
def test_decoupled_decay_is_scaled_by_what_the_last_update_really_divided_by(amsgrad):
    x = Vector(1.0, -2.0)
    live = torch.optim.AdamW(x.parameters(), lr=0.1, weight_decay=0.5, amsgrad=amsgrad)
    for gradient in ([3.0, 1.0], [0.1, 0.5], [0.2, -0.7]):
        before = x.value.detach().clone()
        x.value.grad = torch.tensor(gradient).double()
        live.step()
    mean = live.state[x.value]["exp_avg"] / (1 - 0.9**3)
    divisor = 0.1 * mean / (before * (1 - 0.1 * 0.5) - x.value.detach())
    # The count of steps is kept in single precision.
    assert torch.allclose(known("x", x, live).decay["value"], 0.5 * divisor, rtol=1e-4)


def test_an_optimizer_that_maximizes_steps_with_the_opposite_sign():
    x = Vector(1.0, 2.0)
    context = known(
        "x", x, torch.optim.SGD(x.parameters(), lr=0.1, weight_decay=0.3, maximize=True)
    )
    assert context.sign == -1.0
    assert context.rates == {"value": 0.1}
    assert context.decay == {"value": 0.3}


def test_an_optimizer_with_both_signs_is_refused():
    x, y = Vector(1.0).value, Vector(1.0).value
    groups = [{"params": [x], "maximize": True}, {"params": [y]}]
    with pytest.raises(ResponseError, match="maximises some parameter groups and minimises others"):
        context_of("x", {"x": x, "y": y}, torch.optim.SGD(groups, lr=0.1))


@pytest.mark.parametrize("optimizer", [torch.optim.Adafactor, torch.optim.Muon])
def test_decoupled_decay_of_other_kinds_is_said_to_be_unseen(optimizer):
    model = nn.Linear(2, 2, bias=False)
    context = known("x", model, optimizer(model.parameters(), lr=0.1, weight_decay=0.3))
    assert context.decay == {}
    assert optimizer.__name__ in context.unseen


def test_parameters_that_the_module_lacks_are_passed_over():
    model, other = nn.Linear(1, 1, bias=False), nn.Linear(1, 1)
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    assert known("x", model, optimizer).rates == {"weight": 0.1}


def test_a_given_rate_needs_no_optimizer():
    assert Context(problem="x").rate_of_each(0.5, {"w": torch.ones(1)}) == {"w": 0.5}
