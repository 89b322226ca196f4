import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from mlo import Problem, ProblemError


def problem(**changes):
    fields = {"name": "model", "module": nn.Linear(2, 1), "loss": lambda model: model.weight.sum()}
    return Problem(**{**fields, **changes})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "not a name", "problem 'not a name': name must be an identifier other than 'bat"),
        ("name", "", "problem '': name must be an identifier"),
        ("name", "a.b", "problem 'a.b': name must be an identifier"),
        ("name", "batch", "problem 'batch': name must be an identifier other than 'batch'"),
        ("name", 3, "problem 3: name must be an identifier"),
        ("module", lambda x: x, "problem 'model': module must be a torch.nn.Module, got <function"),
        ("loss", 0.5, r"loss must be a function that returns a 0-dim tensor, got 0.5 \(float\)"),
        ("steps", 0, r"problem 'model': steps must be an integer >= 1, got 0 \(int\)"),
        ("steps", -3, "steps must be an integer >= 1, got -3"),
        ("steps", 1.5, r"steps must be an integer >= 1, got 1.5 \(float\)"),
        ("steps", True, r"steps must be an integer >= 1, got True \(bool\)"),
        ("batches", 7, "batches must be an iterable of batches, got 7"),
        ("optimizer", 0.1, "optimizer must be an optimizer or a function of parameters, got 0.1"),
        ("scheduler", 0.1, "scheduler must be a scheduler or a function of the optimizer, got 0.1"),
        ("response", "cg", r"response must be a response such as mlo.cg\(steps=10\), got 'cg'"),
        ("response", 0.1, "response must be a response such as"),
        ("batches", "abc", "batches must be an iterable of batches, got 'abc'"),
        ("reads", "model", "reads must be a tuple of problem names, got 'model'"),
        ("reads", (1,), "reads must be a tuple of problem names"),
    ],
)
def test_a_field_that_cannot_be_right_is_named_with_what_was_given(field, value, message):
    with pytest.raises(ProblemError, match=message):
        problem(**{field: value})


@pytest.mark.parametrize(
    "empty",
    [
        [],
        DataLoader(TensorDataset(torch.zeros(0, 1))),
        DataLoader(TensorDataset(torch.zeros(3, 1)), batch_size=4, drop_last=True),
    ],
    ids=["list", "no data", "data smaller than a batch"],
)
def test_an_empty_loader_is_refused(empty):
    message = r"problem 'model': batches is empty \(length 0\), expected at least one batch"
    with pytest.raises(ProblemError, match=message):
        problem(batches=empty)


def test_a_loader_of_unknown_length_is_accepted_unread():
    problem(batches=(pytest.fail("was drawn") for _ in range(1)))


def test_a_module_with_nothing_to_train_is_refused():
    message = "problem 'model': module Linear has no parameter with requires_grad"
    with pytest.raises(ProblemError, match=message):
        problem(module=nn.Linear(2, 1).requires_grad_(False))
    with pytest.raises(ProblemError, match="module ReLU has no parameter"):
        problem(module=nn.ReLU())


def test_only_parameters_that_require_a_gradient_are_trained():
    module = nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    assert list(problem(module=module).parameters()) == ["weight"]


def test_a_problem_cannot_be_changed():
    with pytest.raises(AttributeError):
        problem().steps = 2


def test_everything_is_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        Problem("model", nn.Linear(1, 1), lambda model: 0)


def test_optimizers_and_schedulers_may_be_objects_or_factories():
    module = nn.Linear(2, 1)
    live = torch.optim.SGD(module.parameters(), lr=0.1)
    assert problem(module=module, optimizer=live).optimizer is live
    assert problem(optimizer=torch.optim.SGD).optimizer is torch.optim.SGD


class Stream(IterableDataset):
    """A data set without a length."""

    def __iter__(self):
        return iter([torch.zeros(1)])


def test_a_loader_whose_data_set_has_no_length_is_accepted():
    problem(batches=DataLoader(Stream(), batch_size=1))


def test_a_scheduler_must_belong_to_the_optimizer_of_the_problem():
    module = nn.Linear(1, 1)
    own, other = (torch.optim.SGD(module.parameters(), lr=0.1) for _ in range(2))
    scheduler = torch.optim.lr_scheduler.StepLR(own, 1)
    problem(module=module, optimizer=own, scheduler=scheduler)
    with pytest.raises(ProblemError, match="scheduler belongs to another optimizer"):
        problem(module=module, optimizer=other, scheduler=scheduler)
