import functools

import pytest
import torch
from torch import nn

from mlo import ProblemError
from mlo.functional import PureLoss
from tests.programs import Vector


def pure(loss, moves=None, batch=False, **modules):
    return functools.partial(PureLoss("p", loss, modules, takes_batch=batch), moves=moves)


def test_parameters_go_in_by_problem_and_name():
    x, y = Vector(1.0, 2.0), Vector(3.0)
    loss = pure(lambda x, y: (x.value * y.value).sum(), x=x, y=y)
    assert loss({}, None) == 9
    assert loss({"x": {"value": torch.tensor([10.0, 0.0]).double()}}, None) == 30
    assert loss({}, None) == 9


def test_a_problem_that_the_loss_does_not_read_is_passed_over():
    loss = pure(lambda x: x.value.sum(), x=Vector(1.0))
    assert loss({"other": {"value": torch.ones(1)}}, None) == 1


def test_the_batch_is_passed_by_name_if_it_is_taken():
    loss = pure(lambda x, batch: x.value.sum() * batch, batch=True, x=Vector(2.0))
    assert loss({}, 3) == 6


def test_names_may_be_those_of_attributes_of_a_module():
    # A module cannot have submodules called "forward", "training" or "double".
    modules = {name: Vector(float(i)) for i, name in enumerate(("forward", "training", "double"))}
    loss = pure(lambda **given: sum(m.value.sum() for m in given.values()), **modules)
    assert loss({"double": {"value": torch.tensor([5.0])}}, None) == 6


def test_gradients_flow_to_what_was_given():
    x = Vector(1.0, 2.0)
    given = torch.tensor([3.0, 4.0], requires_grad=True)
    pure(lambda x: x.value.square().sum(), x=x)({"x": {"value": given}}, None).backward()
    assert given.grad.tolist() == [6.0, 8.0]
    assert x.value.grad is None


def test_tied_weights_are_swapped_together():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2, bias=False)
            self.second = nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight

    tied = Tied()
    assert list(dict(tied.named_parameters())) == ["first.weight"]
    loss = pure(
        lambda m: (m.second.weight - m.first.weight).abs().sum() + m.second.weight[0, 0], m=tied
    )
    assert loss({"m": {"first.weight": torch.full((2, 2), 7.0)}}, None) == 7


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_use_the_given_weights(recurrent):
    model = recurrent(2, 3)
    inputs = torch.randn(4, 1, 2, generator=torch.Generator().manual_seed(0))
    loss = pure(lambda m, batch: m(batch)[0].square().sum(), batch=True, m=model)
    zeros = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    assert loss({}, inputs) > 0
    assert loss({"m": zeros}, inputs) == 0


def test_parametrized_weights_are_given_by_their_original():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(2, 1, bias=False))
    loss = pure(lambda m: m.weight.norm(), m=model)
    doubled = {n: 2 * p.detach() for n, p in model.named_parameters()}
    before = loss({}, None)
    assert torch.allclose(loss({"m": doubled}, None), 2 * before)


class Counter(nn.Module):
    """Two buffers: one changed in place, one assigned anew."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("in_place", torch.zeros(1))
        self.register_buffer("assigned", torch.zeros(1), persistent=False)

    def forward(self):
        self.in_place += 1
        self.assigned = self.assigned + 1
        return self.weight.sum()


def counts(module):
    return module.in_place.item(), module.assigned.item()


def test_buffers_do_not_move_however_they_are_changed():
    x, y = Counter(), Counter()
    loss = pure(lambda x, y: x() + y(), x=x, y=y)
    loss({}, None)
    assert counts(x) == counts(y) == (0, 0)


def test_only_the_buffers_of_the_problem_that_moves_do():
    x, y = Counter(), Counter()
    pure(lambda x, y: x() + y(), moves="y", x=x, y=y)({}, None)
    assert counts(x) == (0, 0)
    assert counts(y) == (1, 1)


def test_a_problem_whose_name_begins_like_the_moving_one_stays():
    modules = {f"p{i}": Counter() for i in range(12)}
    pure(lambda **given: sum(m() for m in given.values()), moves="p1", **modules)({}, None)
    assert {n: counts(m) for n, m in modules.items() if counts(m) != (0, 0)} == {"p1": (1, 1)}


def test_a_failing_loss_leaves_parameters_and_buffers_in_place():
    x = Counter()
    weight, buffer = x.weight, x.in_place

    def fails(x):
        x()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        pure(fails, x=x)({"x": {"weight": torch.zeros(1)}}, None)
    assert x.weight is weight
    assert x.in_place is buffer
    assert counts(x) == (0, 0)
    assert x.weight.item() == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, "problem 'p': its loss must return a 0-dim tensor or .*, got float"),
        (None, "problem 'p': its loss must return a 0-dim tensor or .*, got NoneType"),
        ((torch.ones(()), 1), "problem 'p': its loss must return a 0-dim tensor or .*, got tuple"),
        (torch.ones(3), r"got shape \(3,\); reduce it, for example with .mean\(\)"),
        (torch.ones(1), r"got shape \(1,\); reduce it"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused(value, message):
    with pytest.raises(ProblemError, match=message):
        pure(functools.partial(lambda value, x: value, value), x=Vector(1.0))({}, None)
