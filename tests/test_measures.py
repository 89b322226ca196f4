"""What of a round is recorded, and the one number by which rounds are compared."""

import math

import pytest
import torch

import mlo
from mlo import Engine, Graph, MloError, Outcome, Problem, Round, Status
from mlo.measure import check_measure, check_named, value_of
from mlo.measures import measures_of
from tests.programs import Vector


def optimizers(**rates):
    return {
        name: torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=rate)
        for name, rate in rates.items()
    }


def round_of(losses, outcomes=None, **options):
    tensors = {name: torch.tensor(loss) for name, loss in losses.items()}
    return Round(number=1, losses=tensors, outcomes=outcomes or {}, **options)


def test_losses_and_learning_rates():
    done = round_of({"x": 0.5, "y": 2.0})
    assert measures_of(done, optimizers(x=0.1, y=0.25)) == {
        "loss/x": 0.5,
        "loss/y": 2.0,
        "rate/x": 0.1,
        "rate/y": 0.25,
    }


def test_a_learning_rate_that_is_a_tensor():
    made = optimizers(x=torch.tensor(0.5))
    found = measures_of(round_of({"x": 1.0}), made)
    assert (found["rate/x"], type(found["rate/x"])) == (0.5, float)


def test_a_problem_that_has_not_been_updated_is_left_out():
    assert list(measures_of(round_of({"x": 1.0}), optimizers(x=0.1, y=0.1))) == [
        "loss/x",
        "rate/x",
    ]


def test_solves_with_and_without_a_residual():
    outcomes = {
        "a": {
            "x": Outcome(
                solver="cg", code=torch.tensor(1), relative_residual=torch.tensor(0.25), products=3
            ),
            "y": Outcome(solver="identity", code=Status.ONE_STEP),
        }
    }
    found = measures_of(round_of({"a": 1.0}, outcomes), optimizers(a=0.1))
    assert {k: v for k, v in found.items() if "through" in k} == {
        "residual/a-through-x": 0.25,
        "status/a-through-x": float(Status.CONVERGED),
        "status/a-through-y": float(Status.ONE_STEP),
    }


def test_a_skipped_update():
    found = measures_of(round_of({"x": math.nan}, skipped=("x",)), optimizers(x=0.1))
    assert math.isnan(found["loss/x"])
    assert found["skipped/x"] == 1.0


def test_everything_is_a_plain_number():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(0.5),
            loss=lambda x, a: (x.value - a.value).square().sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            response=mlo.cg(steps=1),
        ),
        Problem(
            name="a",
            module=Vector(1.0),
            loss=lambda x: (x.value - 3).square().sum(),
            optimizer=lambda p: torch.optim.Adam(p, lr=0.2),
        ),
    )
    engine = Engine(graph, device="cpu")
    found = measures_of(engine.run(1, show_progress=False), engine.optimizers)
    assert {type(value) for value in found.values()} == {float}
    assert list(found) == [
        "loss/x",
        "loss/a",
        "rate/x",
        "rate/a",
        "residual/a-through-x",
        "status/a-through-x",
    ]
    assert (found["loss/x"], found["rate/a"]) == (0.25, 0.2)


# One number


def test_a_measure_by_name_or_by_function():
    done = round_of({"x": 0.5})
    assert value_of("x", done, "score") == 0.5
    assert value_of(lambda r: r.losses["x"] * 2, done, "score") == 1.0
    assert value_of(lambda r: True, done, "score") == 1.0


def test_no_value_while_a_problem_warms_up_or_its_update_is_skipped():
    assert value_of("a", round_of({"x": 0.5}, warming=("a",)), "score") is None
    assert value_of("x", round_of({"x": math.nan}, skipped=("x",)), "score") is None
    assert math.isnan(value_of("x", round_of({"x": math.nan}), "score"))


def test_a_problem_that_there_is_not():
    message = (
        r"^score: no problem 'modle' .*expected one of \('model',\) \(did you mean 'model'\?\)"
    )
    with pytest.raises(MloError, match=message):
        value_of("modle", round_of({"model": 1.0}), "score")
    message = r"^score: there is no problem 'modle', expected one of \('model',\) \(did you mean"
    with pytest.raises(MloError, match=message):
        check_named("score", "modle", ["model"])
    check_named("score", "model", ["model"])
    check_named("score", len, ["model"])
    check_named("score", None, ["model"])


@pytest.mark.parametrize("value", [None, "low", [1.0], torch.ones(2), {}])
def test_a_function_that_gives_no_number(value):
    message = "^score: the function of a round must give a number, got "
    with pytest.raises(MloError, match=message):
        value_of(lambda r: value, round_of({}), "score")


def test_an_exception_of_the_function_itself_comes_through():
    with pytest.raises(ZeroDivisionError):
        value_of(lambda r: 1 / 0, round_of({}), "score")


@pytest.mark.parametrize("value", [1, None, b"x", ["x"]])
def test_what_is_no_measure(value):
    with pytest.raises(
        MloError, match=r"^score must be the name of a problem or a function of a ro"
    ):
        check_measure("score", value)
