"""A Betty program that could not work, or would be read wrongly, is refused in one line."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import mlo
from mlo.interop.betty import from_betty, from_betty_engine
from tests.interop import betty_programs as programs
from tests.programs import network

pytestmark = pytest.mark.betty


def refused(program: Any, edges: Any, message: str, error: type = mlo.GraphError) -> None:
    with pytest.raises(error, match=message) as caught:
        from_betty(program, edges)
    assert "\n" not in str(caught.value)


def test_a_forgotten_edge_downwards() -> None:
    """Betty runs, and the upper problem never moves."""
    (upper, lower), _ = programs.reweighting()
    edges = {"u2l": {}, "l2u": {lower: [upper]}}
    refused(
        [upper, lower],
        edges,
        "'reweight': its loss reads the lower problem 'classifier', but no lower loss that it "
        "reads depends on 'reweight'",
    )
    start = programs.flat(upper.module)
    programs.run([upper, lower], edges, 3)
    assert programs.error(programs.flat(upper.module), start) == 0


def test_a_forgotten_edge_upwards() -> None:
    (upper, lower), _ = programs.reweighting()
    edges = {"u2l": {upper: [lower]}, "l2u": {}}
    refused(
        [upper, lower], edges, "leads from 'reweight' to 'classifier', but no l2u edges lead from"
    )


def test_a_circle() -> None:
    """Betty runs nothing at all."""
    (upper, lower), _ = programs.reweighting()
    edges = {"u2l": {upper: [lower]}, "l2u": {lower: [upper], upper: [lower]}}
    refused([upper, lower], edges, "l2u leads in a circle, reweight -> classifier -> reweight")
    start = programs.flat(lower.module)
    programs.run([upper, lower], edges, 3)
    assert programs.error(programs.flat(lower.module), start) == 0


def test_an_isolated_problem() -> None:
    program, edges = programs.reweighting()
    alone = programs.declared(programs.Classifier, "alone", network(), 0.1, seed=3)
    refused([*program, alone], edges, r"'alone' appears in no edge of u2l or l2u")


def test_a_read_without_an_edge() -> None:
    """Betty takes it as a constant and drops its path; that shows when the loss is evaluated."""
    neumann = {"type": "neumann", "neumann_iterations": 4, "neumann_alpha": 0.1}
    (weights, teacher, student), _ = programs.chain(lr=0.0, upper_lr=1.0, **neumann)
    edges = {"u2l": {weights: [teacher]}, "l2u": {teacher: [weights], student: [weights]}}
    graph = from_betty([weights, teacher, student], edges)
    expected = "'student': its training_step reads 'teacher', but no edge joins them.* to l2u"
    with pytest.raises(mlo.GraphError, match=expected):
        mlo.hypergradient(graph, "student", {"student": programs.batches(1)[0]})
    whole = programs.chain_graph(mlo.neumann(5, 0.1)).problems
    cut = mlo.Graph(
        whole["teacher"],
        replace(whole["student"], response=mlo.constant()),
        whole["reweight"],
    )
    firsts = {name: next(iter(problem.batches)) for name, problem in whole.items()}
    gradient = mlo.hypergradient(cut, "reweight", firsts).gradient
    theirs = programs.moved(
        weights.module, lambda: programs.run([weights, teacher, student], edges, 1)
    )
    assert programs.error(theirs, torch.cat([g.reshape(-1) for g in gradient.values()])) < 1e-9


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (lambda u, w: None, "dependencies must be .* got NoneType"),
        (lambda u, w: {"u2I": {}}, "has the key 'u2I', expected 'u2l' and 'l2u' .did you mean"),
        (lambda u, w: {"u2l": {"reweight": [w]}}, "u2l has 'reweight' .str., which is none of"),
    ],
)
def test_dictionaries_of_another_form(edges: Callable[..., Any], message: str) -> None:
    (upper, lower), _ = programs.reweighting()
    refused([upper, lower], edges(upper, lower), message)


def test_other_lists_of_problems() -> None:
    program, edges = programs.reweighting()
    refused([], edges, "at least one problem")
    refused(["classifier"], edges, "with a training_step, got str")
    refused([*program, program[0]], edges, "two problems are called 'reweight'")
    refused(program[:1], edges, "u2l has 'classifier' .Classifier., which is none of the problems")


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [
        ("precision", "bf16", "torch.autocast"),
        ("gradient_accumulation", 4, "larger batches"),
        ("gradient_clipping", 1.0, "register_step_pre_hook"),
        ("warmup_steps", 10, "train the lower problem first"),
        ("first_order", False, "silently zero"),
        ("darts_multitask", True, "no weight is perturbed"),
    ],
)
def test_a_setting_without_counterpart(field: str, value: Any, instead: str) -> None:
    program, edges = programs.reweighting(**{field: value})
    message = f"'classifier': config.{field} must be .* got {value!r}; .*{instead}"
    refused(program, edges, message, mlo.ProblemError)


@pytest.mark.parametrize("value", [0, -3, 1.5])
def test_unroll_steps_that_betty_accepts(value: Any) -> None:
    program, edges = programs.reweighting(unroll_steps=value)
    refused(program, edges, f"unroll_steps must be an integer >= 1, got {value}", mlo.ProblemError)


@pytest.mark.parametrize("kind", ["reinforce", "neuman"])
def test_a_method_without_counterpart(kind: str) -> None:
    program, edges = programs.reweighting(type=kind)
    refused(program, edges, f"'classifier': config.type must be .* got '{kind}'", mlo.ResponseError)


@pytest.mark.parametrize("method", ["grad_callback", "custom_optimizer_step", "param_groups"])
def test_a_method_that_would_not_be_called(method: str) -> None:
    program, edges = programs.reweighting()
    setattr(program[1], method, lambda: None)
    refused(program, edges, f"'classifier': its method {method} would not be", mlo.ProblemError)


def test_a_module_or_loader_that_is_missing() -> None:
    program, edges = programs.reweighting()
    program[1].module = None
    refused(program, edges, "'classifier': it has no module", mlo.ProblemError)
    program, edges = programs.reweighting()
    program[1].train_data_loader = None
    refused(program, edges, "'classifier': it has no train_data_loader", mlo.ProblemError)


class Partly(programs.Classifier):
    def trainable_parameters(self) -> list[nn.Parameter]:
        return list(self.module[0].parameters())


def test_parameters_that_are_kept_from_training() -> None:
    program, edges = programs.reweighting()
    lower = programs.declared(Partly, "classifier", network(), 0.1, seed=1)
    edges = {"u2l": {program[0]: [lower]}, "l2u": {lower: [program[0]]}}
    refused([program[0], lower], edges, "leaves out '2.weight'", mlo.ProblemError)
    lower.module[2].requires_grad_(False)
    assert len(from_betty([program[0], lower], edges).problem("classifier").parameters()) == 2


@pytest.mark.parametrize(
    ("field", "value"), [("roll_back", True), ("early_stopping", True), ("strategy", "ddp")]
)
def test_an_engine_that_does_more(field: str, value: Any) -> None:
    program, edges = programs.reweighting()
    config = programs.configs.EngineConfig(**{field: value})
    engine = programs.engines.Engine(problems=program, config=config, dependencies=edges)
    with pytest.raises(mlo.ProblemError, match=f"engine: config.{field} must be .* got {value!r}"):
        from_betty_engine(engine)
