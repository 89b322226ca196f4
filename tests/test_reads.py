import functools

import pytest
import torch
from torch import nn

from mlo import GraphError, Problem
from mlo.reads import arguments_of

NAMES = ("model", "weights")


def arguments(loss, **fields):
    return arguments_of(Problem(name="model", module=nn.Linear(1, 1), loss=loss, **fields), NAMES)


def taken(loss, **fields):
    found = arguments(loss, **fields)
    return found.problems, found.batch


def keywords(**modules):
    return sum(m.weight.sum() for m in modules.values())


def three(model, weights, batch):
    return model.weight.sum() * weights.weight.sum() * batch


class Loss:
    def __call__(self, weights, *, model):
        return model.weight.sum()

    def method(self, model, batch):
        return model.weight.sum()


def test_argument_names_say_what_is_read():
    assert taken(lambda model: 0) == (("model",), False)
    assert taken(three) == (("model", "weights"), True)
    assert taken(lambda batch, weights, model: 0) == (("weights", "model"), True)
    assert taken(lambda: 0) == ((), False)
    assert taken(Loss()) == (("weights", "model"), False)
    assert taken(Loss().method) == (("model",), True)


def test_other_arguments_may_have_defaults():
    assert taken(lambda model, scale=2.0, *, power=1: 0) == (("model",), False)


def test_arguments_that_functools_partial_fills_are_no_reads():
    def loss(model, strength, batch):
        return 0

    assert taken(functools.partial(loss, strength=0.1)) == (("model",), True)
    assert taken(functools.partial(lambda strength, model: 0, 0.1)) == (("model",), False)


def test_wrapped_losses_are_looked_through():
    @functools.wraps(three)
    def wrapper(**arguments):
        return three(**arguments)

    assert taken(wrapper) == (("model", "weights"), True)


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("wieghts", r" \(did you mean 'weights'\?\)"),
        ("batches", r" \(did you mean 'batch'\?\)"),
        ("zzz", ""),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_valid_one(argument, hint):
    scope = {}
    exec(f"def loss(model, {argument}): return 0", scope)
    message = (
        f"problem 'model': its loss reads '{argument}', expected 'batch' or one of the problems "
        rf"\('model', 'weights'\){hint}$"
    )
    with pytest.raises(GraphError, match=message):
        arguments(scope["loss"])


def test_a_signature_that_does_not_tell_needs_reads():
    message = (
        "the signature of its loss ends in . or .. and does not say which problems it reads; list"
    )
    with pytest.raises(GraphError, match=message):
        arguments(keywords)
    assert taken(keywords, reads=("weights", "model")) == (("weights", "model"), False)


def test_reads_with_keywords_takes_a_batch_where_there_are_batches():
    assert taken(keywords, reads=("model",), batches=[1]) == (("model",), True)


def test_reads_with_a_partial():
    bound = functools.partial(three, weights=nn.Linear(1, 1))
    # The module that was bound is used, though a problem has its name.
    assert taken(bound) == (("model",), True)
    assert taken(bound, reads=("model",)) == (("model",), True)


def test_reads_are_counted_once():
    assert taken(keywords, reads=("model", "weights", "model")) == (("model", "weights"), False)


@pytest.mark.parametrize(
    ("loss", "reads", "message"),
    [
        (keywords, ("modle",), r"reads names 'modle', expected one of .* mean 'model'\?\)"),
        (three, ("model",), r"its loss requires 'weights', which reads=\('model',\) does not list"),
        (lambda model: 0, ("model", "weights"), "reads names 'weights', but its loss takes no arg"),
    ],
)
def test_reads_that_contradict_the_loss_are_refused(loss, reads, message):
    with pytest.raises(GraphError, match=message):
        arguments(loss, reads=reads)


def test_arguments_by_position_only_are_refused():
    with pytest.raises(GraphError, match="takes 'model' by position only, but losses are called"):
        arguments(lambda model, /: 0)
    assert taken(lambda scale=1.0, /, *, model=None: 0) == (("model",), False)


def test_a_loss_without_a_readable_signature_is_refused():
    with pytest.raises(GraphError, match="problem 'model': the signature of its loss cannot be re"):
        arguments(torch.sum)
