import importlib

import pytest
import torch

from mlo import Context
from mlo.inverse.memory import recalled, remember

# The name mlo.inverse.memory is the module; monkeypatch needs it as an object.
module = importlib.import_module("mlo.inverse.memory")


@pytest.fixture(params=[True, False], ids=["reads", "does not wait"])
def either_device(request, monkeypatch):
    """Decide as on a CPU, and as on an accelerator, where no number may be waited for."""
    monkeypatch.setattr(module, "synchronous", lambda device: request.param)


def vector(value, *shape, dtype=torch.float64):
    return {"w": torch.full(shape or (2,), value, dtype=dtype)}


@pytest.mark.usefixtures("either_device")
def test_what_is_kept_comes_back():
    context = Context()
    remember(context, "w", vector(1.0))
    assert torch.equal(recalled(context, "w", vector(0.0))["w"], torch.ones(2).double())
    assert recalled(context, "v", vector(0.0)) is None


@pytest.mark.usefixtures("either_device")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_replace_what_is_kept(value):
    context = Context()
    remember(context, "w", vector(3.0))
    remember(context, "w", vector(value))
    assert torch.equal(recalled(context, "w", vector(0.0))["w"], torch.full((2,), 3.0).double())


@pytest.mark.usefixtures("either_device")
def test_nothing_that_is_not_finite_is_ever_kept():
    context = Context()
    remember(context, "w", vector(float("nan")))
    kept = recalled(context, "w", vector(0.0))
    assert kept is None or torch.equal(kept["w"], torch.zeros(2).double())


@pytest.mark.parametrize(
    "other",
    [
        vector(0.0, 3),
        vector(0.0, 2, 1),
        vector(0.0, dtype=torch.float32),
        {"w": torch.zeros(2, dtype=torch.float64, device="meta")},
        {"x": torch.zeros(2).double()},
        {**vector(0.0), "x": torch.zeros(1).double()},
        {},
    ],
    ids=["size", "shape", "dtype", "device", "name", "more names", "no names"],
)
def test_what_does_not_fit_is_forgotten(other):
    context = Context()
    remember(context, "w", vector(1.0))
    assert recalled(context, "w", other) is None


@pytest.mark.parametrize("junk", [None, 3.0, {"w": 3.0}, {"w": None}])
def test_what_is_no_vector_is_forgotten(junk):
    assert recalled(Context(memory={"w": junk}), "w", vector(0.0)) is None


def test_the_order_of_the_names_is_that_of_the_vector():
    context = Context(memory={"w": {"b": torch.zeros(1), "a": torch.ones(1)}})
    assert list(recalled(context, "w", {"a": torch.zeros(1), "b": torch.zeros(1)})) == ["a", "b"]
