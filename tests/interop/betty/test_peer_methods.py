"""What Betty computes otherwise than declared is said, and shown here with numbers."""

from functools import partial
from typing import Any

import pytest
import torch

import mlo
from mlo.interop.betty import BettyWarning, to_betty
from mlo.response.adaptive import adaptive
from tests.interop import betty_programs as programs
from tests.programs import Vector

pytestmark = pytest.mark.betty


def lower_loss(x: Any, a: Any) -> torch.Tensor:
    curvature = torch.linspace(1.0, 10.0, 5, dtype=torch.float64)
    return (curvature * x.value.square()).sum() / 2 - (x.value * a.value).sum()


def upper_loss(x: Any) -> torch.Tensor:
    return (x.value - 1).square().sum()


def quadratic(response: mlo.Response, optimizer: Any = None) -> mlo.Graph:
    """Return a program whose hypergradient is ``2 H⁻¹ (x - 1)``, with ``H = diag(1 ... 10)``."""
    return mlo.Graph(
        mlo.Problem(
            name="x",
            module=Vector(0.3, -0.2, 0.1, 0.5, -0.4),
            loss=lower_loss,
            optimizer=optimizer or programs.sgd(0.0),
            response=response,
        ),
        mlo.Problem(
            name="a",
            module=Vector(0.0, 0.0, 0.0, 0.0, 0.0),
            loss=upper_loss,
            optimizer=programs.sgd(1.0),
        ),
    )


def by_both(graph: mlo.Graph) -> tuple[torch.Tensor, torch.Tensor]:
    ours = mlo.hypergradient(graph, "a").gradient["value"]
    engine = to_betty(graph, rounds=1, device="cpu")
    return ours, programs.moved(graph.problem("a").module, engine.run)


def exactly(graph: mlo.Graph) -> torch.Tensor:
    return mlo.hypergradient(graph, "a").gradient["value"]


def test_one_iteration_of_conjugate_gradients_is_right() -> None:
    ours, theirs = by_both(quadratic(mlo.cg(1)))
    assert programs.error(theirs, ours) < 1e-12


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_more_iterations_are_wrong_and_said_to_be(steps: int) -> None:
    """Five iterations solve five dimensions, but not with Betty's direction."""
    exact = exactly(quadratic(mlo.exact()))
    with pytest.warns(BettyWarning, match="old residual"):
        ours, theirs = by_both(quadratic(mlo.cg(steps)))
    assert programs.error(ours, exact) < programs.error(theirs, exact)
    assert programs.error(theirs, exact) > 0.55
    if steps == 5:
        assert programs.error(ours, exact) < 1e-12


def test_sama_with_sgd_is_the_one_step_response() -> None:
    make = partial(quadratic, adaptive(), programs.sgd(0.05))
    ours, theirs = make(), make()
    mlo.Engine(ours, device="cpu").run(rounds=3)
    to_betty(theirs, rounds=3, device="cpu").run()
    expected, found = (programs.flat(g.problem("a").module) for g in (ours, theirs))
    assert programs.error(found, expected) < 1e-9


def test_sama_with_adam_lacks_the_bias_correction() -> None:
    """The direction is right, the length is not."""
    make = partial(quadratic, adaptive(), lambda p: torch.optim.Adam(p, lr=0.05))
    moves = []
    for is_ours in (True, False):
        graph = make()
        engine: Any = mlo.Engine(graph, device="cpu")
        if not is_ours:
            with pytest.warns(BettyWarning, match="bias correction"):
                engine = to_betty(graph, rounds=2, device="cpu")
        moves.append(
            programs.moved(
                graph.problem("a").module, partial(engine.run, 2) if is_ours else engine.run
            )
        )
    ours, theirs = moves
    assert float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0)) > 0.99
    assert float(theirs.norm() / ours.norm()) > 1.2


def test_plain_darts_is_longer_by_the_inverse_of_the_learning_rate() -> None:
    program, edges = programs.reweighting(lr=0.05, upper_lr=1.0)
    upper, lower = program
    theirs = programs.moved(upper.module, lambda: programs.run(program, edges, 1))
    graph = programs.reweighting_graph(mlo.finite_difference(), module=lower.module)
    graph.problem("reweight").module.load_state_dict(programs.weighting().state_dict())
    firsts = {name: next(iter(p.batches)) for name, p in graph.problems.items()}
    ours = mlo.hypergradient(graph, "reweight", firsts).gradient
    expected = torch.cat([g.reshape(-1) for g in ours.values()]) / 0.05
    assert programs.error(theirs, expected) < 1e-9
