import pytest
import torch

from mlo import Context, ResponseError, Status, inverse


def no_product(direction):
    raise AssertionError("the identity needs no Hessian product")


def test_the_rate_of_each_parameter_scales_it():
    rates = {"a": 0.5, "b": torch.tensor(0.1)}
    context = Context(problem="x", rates=rates)
    vector = {"a": torch.ones(2), "b": torch.ones(3)}
    answer, outcome = inverse.identity()(no_product, vector, context)
    assert torch.equal(answer["a"], torch.full((2,), 0.5))
    assert torch.equal(answer["b"], torch.full((3,), 0.1))
    assert outcome.status is Status.ONE_STEP
    assert outcome.converged


def test_a_given_rate_overrides_the_learning_rate():
    context = Context(problem="x", rates={"a": 0.5})
    answer, _ = inverse.identity(rate=2.0)(no_product, {"a": torch.ones(2)}, context)
    assert torch.equal(answer["a"], torch.full((2,), 2.0))


def test_a_missing_rate_is_named():
    with pytest.raises(ResponseError, match="problem 'x': the response needs a learning rate"):
        inverse.identity()(no_product, {"a": torch.ones(2)}, Context(problem="x"))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ResponseError, match=f"identity: rate must be > 0, got {rate}"):
        inverse.identity(rate=rate)
