"""What Betty cannot run is refused before it starts, in one line."""

from typing import Any

import pytest
import torch

import mlo
from mlo.interop.betty import to_betty
from mlo.response.adaptive import adaptive
from tests.interop import betty_programs as programs
from tests.programs import Vector

pytestmark = pytest.mark.betty


def quadratic(x: Any, a: Any) -> torch.Tensor:
    return (x.value - a.value).square().sum()


def lower(**fields: Any) -> mlo.Graph:
    return programs.reweighting_graph(fields.pop("response", None), **fields)


def plateau(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


def decaying(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)


def two_rates(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": parameters[:1], "lr": 0.5}, {"params": parameters[1:]}], 0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"response": mlo.exact()},
            r"'classifier': Betty has no counterpart of response=exact\(\)",
        ),
        ({"response": mlo.cg(2, tolerance=0.1)}, r"cg has no tolerance=0.1, got cg\(steps=2\)"),
        (
            {"response": mlo.implicit(mlo.inverse.neumann(2, "auto"))},
            "neumann takes a number as its rate, got neumann",
        ),
        (
            {"response": mlo.neumann(2, 0.1, product="finite_difference")},
            "Betty's neumann takes products by autograd only",
        ),
        ({"optimizer": None}, "running takes an optimizer, got NoneType"),
        ({"batches": None}, "takes a batch, but batches is None"),
        ({"scheduler": plateau}, "without the loss that ReduceLROnPlateau takes"),
        (
            {"scheduler": decaying, "response": mlo.neumann(2)},
            "its scheduler changes the learning rate",
        ),
        (
            {"optimizer": two_rates, "response": mlo.neumann(2)},
            r"one rate for all parameters of a problem, but its optimizer has \[0.1, 0.5\]",
        ),
        ({"optimizer": two_rates}, r"but its optimizer has \[0.1, 0.5\]; give its response rate"),
    ],
)
def test_a_problem_that_betty_cannot_run(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(mlo.MloError, match=message) as caught:
        to_betty(lower(**fields), rounds=1, device="cpu")
    assert "\n" not in str(caught.value)


def plain_function(*args: Any) -> Any: ...


def test_a_response_of_the_users_own() -> None:
    with pytest.raises(mlo.ResponseError, match="no counterpart of response=plain_function"):
        to_betty(lower(response=plain_function), rounds=1, device="cpu")


@pytest.mark.parametrize("name", ["env", "module", "problems", "paths"])
def test_a_name_that_betty_uses_itself(name: str) -> None:
    problem = mlo.Problem(
        name=name,
        module=Vector(1.0),
        loss=lambda **modules: modules[name].value.square().sum(),
        reads=(name,),
        optimizer=programs.sgd(0.1),
    )
    with pytest.raises(mlo.GraphError, match=f"'{name}': Betty has an attribute of that name"):
        to_betty(mlo.Graph(problem), rounds=1, device="cpu")


def test_an_order_of_updates_that_betty_does_not_have() -> None:
    """Betty updates both lower problems until the slower one is done."""

    def loss(a: Any, b: Any, u: Any) -> torch.Tensor:
        return (a.value * b.value * u.value).sum()

    def square(name: str) -> Any:
        return lambda **modules: (modules[name].value - modules["u"].value).square().sum()

    def problem(name: str, steps: int, **fields: Any) -> mlo.Problem:
        optimizer = programs.sgd(0.1)
        return mlo.Problem(
            name=name, module=Vector(1.0), steps=steps, optimizer=optimizer, **fields
        )

    graph = mlo.Graph(
        problem("a", 2, loss=square("a"), reads=("a", "u")),
        problem("b", 3, loss=square("b"), reads=("b", "u")),
        problem("u", 1, loss=loss),
        levels={"a": 0, "b": 0, "u": 1},
    )
    with pytest.raises(mlo.GraphError, match="one round is a b a b b u, but Betty would update"):
        to_betty(graph, rounds=1, device="cpu")


@pytest.mark.parametrize("rounds", [0, True, 1.5])
def test_rounds_that_cannot_be_counted(rounds: Any) -> None:
    with pytest.raises(mlo.MloError, match="rounds must be an integer >= 1, got"):
        to_betty(lower(), rounds=rounds)


def test_no_graph_and_another_device() -> None:
    name: Any = "graph"
    with pytest.raises(mlo.MloError, match=r"takes a mlo\.Graph, got str"):
        to_betty(name, rounds=1)
    with pytest.raises(mlo.MloError, match="'cpu' or 'cuda', got device='meta'"):
        to_betty(lower(), rounds=1, device="meta")


def test_an_optimizer_that_bettys_sama_gets_wrong() -> None:
    response = adaptive()
    graph = lower(response=response, optimizer=lambda p: torch.optim.Adamax(p))
    with pytest.raises(mlo.ResponseError, match="Adam and AdamW only, got Adamax"):
        to_betty(graph, rounds=1, device="cpu")
