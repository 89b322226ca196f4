"""A Betty program becomes a graph that computes the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mlo
from mlo.interop.betty import from_betty, from_betty_engine, to_betty
from mlo.response.adaptive import adaptive
from tests.interop import betty_programs as programs
from tests.programs import network

pytestmark = [pytest.mark.betty, pytest.mark.filterwarnings("ignore::mlo.ResponseWarning")]

Program = tuple[list[Any], programs.Edges]
NEUMANN = {"type": "neumann", "neumann_iterations": 4, "neumann_alpha": 0.1}


def flat(graph: mlo.Graph, name: str, batches: dict[str, Any]) -> Tensor:
    found = mlo.hypergradient(graph, name, batches).gradient
    return torch.cat([g.reshape(-1) for g in found.values()])


@pytest.mark.parametrize(
    "config", [NEUMANN, {"type": "darts"}, {"type": "darts", "darts_alpha": 0.1}, {"type": "cg"}]
)
def test_the_hypergradient_is_bettys(config: dict[str, Any]) -> None:
    """The lower rate is 0, so that one iteration of Betty moves the upper problem only."""
    (upper, lower), edges = programs.reweighting(lr=0.0, upper_lr=1.0, **config)
    theirs = programs.moved(upper.module, lambda: programs.run([upper, lower], edges, 1))
    graph = from_betty(*programs.reweighting(lr=0.0, **config))
    firsts = {"classifier": programs.batches(1)[0], "reweight": programs.batches(2)[0]}
    assert programs.error(flat(graph, "reweight", firsts), theirs) < 1e-9


@pytest.mark.parametrize(("config", "bound"), [(NEUMANN, 1e-9), ({"type": "darts"}, 1e-4)])
def test_the_hypergradient_along_both_paths_of_three_levels(
    config: dict[str, Any], bound: float
) -> None:
    """Neumann is linear; the differences of `darts` are taken path by path, to second order."""
    program, edges = programs.chain(lr=0.0, upper_lr=1.0, **config)
    theirs = programs.moved(program[0].module, lambda: programs.run(program, edges, 1))
    graph = from_betty(*programs.chain(lr=0.0, **config))
    firsts = {
        name: programs.batches(seed)[0]
        for seed, name in enumerate(("teacher", "student", "reweight"), start=1)
    }
    assert programs.error(flat(graph, "reweight", firsts), theirs) < bound


@pytest.mark.parametrize(("make", "lower"), [(programs.reweighting, 1), (programs.chain, 2)])
@pytest.mark.parametrize("steps", [1, 3])
def test_five_rounds_give_the_parameters_that_betty_gives(
    make: Callable[..., Program], lower: int, steps: int
) -> None:
    theirs, edges = make(unroll_steps=steps, **NEUMANN)
    start = {p.name: programs.flat(p.module) for p in theirs}
    programs.run(theirs, edges, 5 * steps**lower)
    graph = from_betty(*make(unroll_steps=steps, **NEUMANN))
    mlo.Engine(graph, device="cpu").run(rounds=5)
    for problem in theirs:
        expected = programs.flat(problem.module) - start[problem.name]
        found = programs.flat(graph.problem(problem.name).module) - start[problem.name]
        assert programs.error(found, expected) < 1e-9


def test_an_engine_is_read_before_and_after_it_has_run() -> None:
    program, edges = programs.reweighting(unroll_steps=2, **NEUMANN)
    config = programs.configs.EngineConfig(train_iters=2, strategy="cpu")
    engine = programs.engines.Engine(problems=program, config=config, dependencies=edges)
    graph = from_betty_engine(engine)
    engine.run()
    again = from_betty_engine(engine)
    for read in (graph, again):
        assert read.levels == {"classifier": 0, "reweight": 1}
        assert read.problem("classifier").steps == 2
        assert len(read.problem("classifier").batches) == 3
    mlo.Engine(again, device="cpu").run(rounds=1)


def test_reads_levels_and_responses_of_a_chain() -> None:
    program, edges = programs.chain(unroll_steps=2, **NEUMANN)
    program[2].config.type = "darts"
    graph = from_betty(program, edges)
    assert graph.levels == {"teacher": 0, "student": 1, "reweight": 2}
    assert graph.reads("teacher") == ("teacher", "reweight")
    assert graph.reads("student") == ("student", "teacher")
    assert graph.reads("reweight") == ("reweight", "teacher", "student")
    assert graph.response("teacher").label == "neumann(terms=5, rate=0.1)"
    assert graph.response("student").label == "finite_difference(rate=1)"
    assert graph.problem("reweight").response is None
    assert {n: p.steps for n, p in graph.problems.items()} == {
        "teacher": 2,
        "student": 2,
        "reweight": 1,
    }


def test_nothing_of_the_program_given_is_changed() -> None:
    program, edges = programs.reweighting(**NEUMANN)
    before = [dict(vars(problem)) for problem in program]
    graph = from_betty(program, edges)
    mlo.Engine(graph, device="cpu").run(rounds=2)
    assert [vars(problem) for problem in program] == before
    # So Betty still takes it.
    programs.run(program, edges, 2)


class Configured(programs.problems.ImplicitProblem):
    def configure_train_data_loader(self) -> Any:
        return programs.batches(1)

    def configure_module(self) -> nn.Module:
        return network()

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.module.parameters(), lr=0.1)

    def configure_scheduler(self) -> Any:
        return torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=1)

    def training_step(self, batch: programs.Batch) -> Tensor:
        inputs, targets = batch
        return (self(inputs) - targets).square().mean()


def test_what_a_problem_configures_itself() -> None:
    problem = Configured("alone", programs.configs.Config())
    graph = from_betty([problem], {"u2l": {}, "l2u": {}})
    declared = graph.problem("alone")
    assert isinstance(declared.optimizer, torch.optim.SGD)
    assert declared.scheduler.optimizer is declared.optimizer
    engine = mlo.Engine(graph, device="cpu")
    start = programs.flat(declared.module)
    engine.run(rounds=1)
    assert not torch.equal(programs.flat(declared.module), start)
    assert problem.module is None


def test_several_loaders_come_together() -> None:
    problem = Configured("alone", programs.configs.Config(), train_data_loader=([1, 2], "abc"))
    graph = from_betty([problem], {"u2l": {}, "l2u": {}})
    drawn = iter(graph.problem("alone").batches)
    assert [next(drawn) for _ in range(4)] == [(1, "a"), (2, "b"), (1, "c"), (2, "a")]


class Drawing(Configured):
    def get_batch(self) -> str:
        return "drawn"


def test_a_problem_that_draws_its_own_batches() -> None:
    graph = from_betty([Drawing("alone", programs.configs.Config())], {"u2l": {}, "l2u": {}})
    assert next(iter(graph.problem("alone").batches)) == "drawn"


def test_the_optimizer_is_the_object_that_the_user_gave() -> None:
    program, edges = programs.reweighting(**NEUMANN)
    given = program[1].optimizer = torch.optim.AdamW(program[1].module.parameters(), lr=0.01)
    graph = from_betty(program, edges)
    assert graph.problem("classifier").optimizer is given
    mlo.Engine(graph, device="cpu").run(rounds=1)


@pytest.mark.parametrize(
    ("optimizer", "label"),
    [
        (torch.optim.Adam, adaptive(product="finite_difference").label),
        (torch.optim.SGD, "finite_difference(rate=1)"),
    ],
)
def test_sama_depends_on_the_optimizer(optimizer: Any, label: str) -> None:
    program, edges = programs.reweighting(type="sama")
    program[1].optimizer = optimizer(program[1].module.parameters(), lr=0.1)
    assert from_betty(program, edges).response("classifier").label == label


@pytest.mark.parametrize("response", [None, mlo.neumann(5, 0.1), mlo.neumann(3), mlo.cg(1)])
@pytest.mark.parametrize("make", [programs.reweighting_graph, programs.chain_graph])
def test_a_graph_comes_back_from_betty_as_it_was(make: Any, response: Any) -> None:
    steps = 2 if make is programs.reweighting_graph else (2, 3)
    graph = make(response, steps=steps)
    engine = to_betty(graph, rounds=1, device="cpu")
    back = from_betty_engine(engine)
    assert repr(back) == repr(graph)
    assert back.levels == graph.levels
    assert back.sweeps == graph.sweeps
    for name, problem in graph.problems.items():
        returned = back.problem(name)
        assert back.reads(name) == graph.reads(name)
        assert back.response(name).label == graph.response(name).label
        assert (returned.steps, returned.module) == (problem.steps, problem.module)
        assert (returned.loss, returned.batches) == (problem.loss, problem.batches)
        assert (returned.optimizer, returned.response) == (problem.optimizer, problem.response)


@pytest.mark.parametrize("make", [programs.reweighting, programs.chain])
def test_a_betty_program_comes_back_from_a_graph_as_it_was(make: Callable[..., Program]) -> None:
    program, edges = make(unroll_steps=2, **NEUMANN)
    engine = to_betty(from_betty(program, edges), rounds=3, device="cpu")

    def named(given: programs.Edges) -> Any:
        return {
            key: {start.name: {end.name for end in ends} for start, ends in starts.items()}
            for key, starts in given.items()
        }

    assert named(engine.dependencies) == named(edges)
    original = {problem.name: problem.config for problem in program}
    for problem in engine.problems:
        for field in ("type", "unroll_steps", "neumann_iterations", "neumann_alpha", "darts_alpha"):
            assert getattr(problem.config, field) == getattr(original[problem.name], field)
