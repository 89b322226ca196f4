"""The peer and `mlo` agree where the peer is right: its Neumann series, on two and three levels."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import mlo
from mlo import Graph, Problem
from tests.programs import Vector

betty = pytest.importorskip(
    "betty", reason="needs pip install --no-deps --ignore-requires-python betty-ml==0.2.1"
)
pytestmark = [pytest.mark.betty, pytest.mark.filterwarnings("ignore")]

RATE, TERMS = 0.1, 300


def lower_x(x: Any, a: Any) -> torch.Tensor:
    return (x.value**2 * torch.tensor([1.0, 4.0])).sum() / 2 - (x.value * a.value).sum()


def lower_y(y: Any, x: Any) -> torch.Tensor:
    return (y.value**2 * torch.tensor([2.0, 3.0])).sum() / 2 - (y.value * x.value).sum()


def upper(a: Any, x: Any, y: Any = None) -> torch.Tensor:
    reached = x if y is None else y
    return ((reached.value - 1) ** 2).sum() + (x.value**3).sum() + (a.value**2).sum()


def modules(*names: str) -> dict[str, nn.Module]:
    start = {"a": (0.5, -0.3), "x": (0.5, -0.075), "y": (0.25, -0.025)}
    return {name: Vector(*start[name]).double() for name in names}


def by_mlo(parts: dict[str, nn.Module]) -> torch.Tensor:
    response = mlo.neumann(TERMS, RATE)
    losses = {"x": lower_x, "y": lower_y, "a": upper}
    reads = {"x": ("x", "a"), "y": ("y", "x"), "a": ("a", *(n for n in parts if n != "a"))}
    graph = Graph(
        *(
            Problem(
                name=name,
                module=module,
                loss=losses[name],
                reads=reads[name],
                response=None if name == "a" else response,
            )
            for name, module in parts.items()
        )
    )
    return mlo.hypergradient(graph, "a").gradient["value"]


def by_betty(parts: dict[str, nn.Module]) -> torch.Tensor:
    """One round with learning rate 0 below and 1 above: the step is the negative hypergradient."""
    from betty.configs import Config, EngineConfig  # noqa: PLC0415  # absent unless it is tested
    from betty.engine import Engine  # noqa: PLC0415
    from betty.problems import ImplicitProblem  # noqa: PLC0415

    losses = {
        "x": lambda self: lower_x(self.module, self.a.module),
        "y": lambda self: lower_y(self.module, self.x.module),
        "a": lambda self: upper(self.module, **{n: getattr(self, n).module for n in below}),
    }
    below = [name for name in parts if name != "a"]

    def declare(name: str) -> Any:
        kind = type(
            name.upper(),
            (ImplicitProblem,),
            {"training_step": lambda self, batch: losses[name](self)},
        )
        config = Config(
            type="neumann", neumann_iterations=TERMS - 1, neumann_alpha=RATE, retain_graph=True
        )
        return kind(
            name=name,
            config=config,
            module=parts[name],
            optimizer=torch.optim.SGD(parts[name].parameters(), lr=1.0 if name == "a" else 0.0),
            train_data_loader=[(torch.zeros(1),)],
        )

    problems = {name: declare(name) for name in parts}
    chain = [*below, "a"]
    upwards: dict[Any, list[Any]] = {}
    for n, name in enumerate(chain[:-1]):
        upwards[problems[name]] = [problems[chain[n + 1]]]
        if chain[n + 1] != "a":
            upwards[problems[name]].append(problems["a"])
    before = parts["a"].value.detach().clone()
    engine = Engine(
        config=EngineConfig(train_iters=1),
        problems=list(problems.values()),
        dependencies={"u2l": {problems["a"]: [problems["x"]]}, "l2u": upwards},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.run()
    return before - parts["a"].value.detach()


@pytest.mark.parametrize("names", [("x", "a"), ("x", "y", "a")], ids=["bilevel", "both paths"])
def test_the_hypergradients_agree(names: tuple[str, ...]) -> None:
    expected = by_mlo(modules(*names))
    found = by_betty(modules(*names))
    assert expected.norm() > 0.1
    assert torch.allclose(found, expected, rtol=1e-9)
