"""Updates on several batches at once: A equal micro-batches do what one batch of them does."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mlo
from mlo import Engine, Graph, Outcome, Problem, ProblemError, Status
from tests.programs import (
    Vector,
    counted,
    network,
    relative_error,
    snapshot,
    two_levels,
)

RESPONSES = [
    mlo.finite_difference(1e-3),
    mlo.identity(),
    mlo.identity(product="finite_difference"),
    mlo.neumann(terms=3),
    mlo.neumann(terms=3, rate="auto"),
    mlo.cg(steps=4, damping=1.0),
    mlo.cg(steps=3, damping=1.0, product="finite_difference"),
    mlo.exact(damping=1.0),
    mlo.nystrom(rank=4, damping=1.0),
    mlo.adaptive(),
    mlo.warm_started(),
    mlo.warm_started(mlo.inverse.cg(steps=2, damping=1.0), steps=2),
    mlo.unrolled(),
    mlo.unrolled(steps=1),
    mlo.value_function(steps=3, rate=0.1),
    mlo.value_function(steps=3, rate=0.1, central=True),
    mlo.stationarity_penalty(steps=3, rate=0.1),
]
every_response = pytest.mark.parametrize("response", RESPONSES, ids=lambda r: r.label)


def sgd(lr=0.1, **options):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **options)


def rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return inputs, inputs.sum(1, keepdim=True).sin()


def together(batches):
    """Return the batches as one."""
    return tuple(torch.cat(columns) for columns in zip(*batches, strict=True))


def runnable(graph, accumulate, batches, **options):
    """Give each problem a number of batches an update, or that many joined into one."""
    problems = [
        replace(
            problem,
            batches=batches[name],
            accumulate=accumulate.get(name, 1),
            optimizer=options.get("optimizers", {}).get(name, sgd()),
            steps=options.get("steps", {}).get(name, 1),
        )
        for name, problem in graph.problems.items()
    ]
    return Graph(*problems, levels=graph.levels)


def pair(declare, accumulate, rounds=2, **options):
    """Return engines of the same program on micro-batches and on the batches that they form.

    Args:
        declare: Makes the program.
        accumulate: Micro-batches of each problem.
        rounds: How many updates of each problem have batches of their own.
        **options: Steps and optimizers by problem.
    """
    apart, whole = {}, {}
    for number, (name, count) in enumerate(accumulate.items()):
        drawn = [
            [rows(4, seed=100 * number + 10 * update + part) for part in range(count)]
            for update in range(rounds)
        ]
        apart[name] = [batch for update in drawn for batch in update]
        whole[name] = [together(update) for update in drawn]
    return (
        Engine(runnable(declare(), accumulate, apart, **options), device="cpu"),
        Engine(runnable(declare(), {}, whole, **options), device="cpu"),
    )


def reweighted(response, separable=False, model=None):
    """Return the program of `two_levels`, its lower loss made of `mlo.weighted` if asked for."""

    def weighted_loss(model, weights, batch):
        inputs, targets = batch
        errors = (model(inputs) - targets).square()
        return mlo.weighted(errors, weights(inputs)) + 0.01 * errors.square().mean()

    graph = two_levels(model or network(), response)
    if not separable:
        return graph
    problems = [
        replace(p, loss=weighted_loss) if n == "model" else p for n, p in graph.problems.items()
    ]
    return Graph(*problems)


def same_run(micro, whole, rounds=2, tolerance=1e-10):
    """Assert that both engines find the same losses and go the same way."""
    for left, right in zip(micro.rounds(rounds), whole.rounds(rounds), strict=True):
        for name, loss in right.losses.items():
            assert torch.allclose(left.losses[name], loss, rtol=tolerance, atol=0)
    left, right = snapshot(micro.graph), snapshot(whole.graph)
    assert relative_error(left, right) < tolerance


@given(
    count=st.integers(1, 5),
    steps=st.integers(1, 3),
    weight_decay=st.sampled_from([0.0, 0.1]),
    adam=st.booleans(),
)
@settings(max_examples=10)
def test_plain_training_on_micro_batches(count, steps, weight_decay, adam):
    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    make = torch.optim.Adam if adam else torch.optim.SGD
    engines = pair(
        lambda: Graph(Problem(name="model", module=network(seed=3), loss=loss)),
        {"model": count},
        rounds=steps,
        optimizers={"model": lambda p: make(p, lr=0.05, weight_decay=weight_decay)},
    )
    same_run(*engines, rounds=steps)


@pytest.mark.parametrize("separable", [False, True], ids=["plain", "weighted"])
@every_response
def test_a_hypergradient_on_micro_batches(response, separable):
    """Both the lower problem's batch and the upper one's come in parts."""
    micro, whole = pair(
        lambda: reweighted(response, separable),
        {"model": 3, "weights": 2},
        optimizers={"model": lambda p: torch.optim.Adam(p, lr=0.05)},
    )
    for _ in range(2):
        found = {}
        for engine in (micro, whole):
            engine.update("model")
            found[engine] = engine.update("weights")
        assert relative_error(found[micro].gradient, found[whole].gradient) < 1e-9
        assert torch.allclose(found[micro].loss, found[whole].loss, rtol=1e-12)
        statuses = [found[e].outcomes["model"].status for e in (micro, whole)]
        assert statuses[0] == statuses[1]
    # The two batches of an update differ, and so would their hypergradients.
    assert len(micro.graph.problem("model").batches) == 6


@given(lower=st.integers(1, 4), upper=st.integers(1, 4), seed=st.integers(0, 3))
@settings(max_examples=6)
def test_any_numbers_of_micro_batches(lower, upper, seed):
    engines = pair(
        lambda: reweighted(mlo.exact(damping=1.0), model=network(seed=seed)),
        {"model": lower, "weights": upper},
    )
    same_run(*engines)


@pytest.mark.parametrize("steps", [1, 3])
def test_recorded_updates_on_micro_batches_are_made_again(steps):
    micro, whole = pair(
        lambda: reweighted(mlo.unrolled(), model=network(seed=2)),
        {"model": 2, "weights": 2},
        rounds=2 * steps,
        steps={"model": steps},
        optimizers={"model": sgd(momentum=0.9)},
    )
    same_run(micro, whole)
    outcome = next(micro.rounds(1)).outcomes["weights"]["model"]
    assert "made again" not in outcome.message


def chain():
    """Three levels: t is read by s, and c by t; both are answered for."""

    def loss_t(t, c, batch):
        return ((t(batch[0]) - c(batch[0]).sigmoid()) * batch[1]).square().mean()

    def loss_s(s, t, batch):
        return (s(batch[0]) - t(batch[0])).square().mean()

    def loss_c(s, t, c, batch):
        return (s(batch[0]) + t(batch[0]) - 1).square().mean() + 0.01 * c(batch[0]).square().mean()

    return Graph(
        Problem(name="t", module=network(seed=0), loss=loss_t, response=mlo.neumann(terms=2)),
        Problem(
            name="s", module=network(seed=1), loss=loss_s, response=mlo.cg(steps=3, damping=1.0)
        ),
        Problem(name="c", module=network(seed=2), loss=loss_c),
    )


def test_three_levels_on_micro_batches():
    micro, whole = pair(chain, {"t": 3, "s": 2, "c": 2}, steps={"t": 2}, rounds=4)
    same_run(micro, whole)


def nested():
    """b's objective contains the solution c*(b, a), on batches of c's own."""

    def loss_c(c, b, a, batch):
        error = batch[0] @ c.value - batch[1].squeeze(1) * b.value.sum() - a.value[0]
        return error.square().mean() + 0.5 * c.value.square().sum()

    def loss_b(b, c, a, batch):
        error = batch[0] @ (b.value + c.value) - a.value.sum()
        return error.square().mean() + c.value.tanh().sum() + b.value.square().sum()

    def loss_a(a, b, c, batch):
        return ((batch[0] @ (b.value - c.value)) * a.value.sum()).sin().mean()

    def start(number, size):
        generator = torch.Generator().manual_seed(number)
        return Vector(*torch.randn(size, generator=generator).tolist())

    return Graph(
        Problem(name="c", module=start(0, 3), loss=loss_c, response=mlo.exact()),
        Problem(name="b", module=start(1, 3), loss=loss_b, response=mlo.exact()),
        Problem(name="a", module=start(2, 2), loss=loss_a),
        levels={"c": 0, "b": 1, "a": 2},
    )


def test_nested_programs_on_micro_batches():
    assert nested().sweeps["a"].within["b"] == ("c",)
    same_run(*pair(nested, {"c": 2, "b": 3, "a": 2}))


@pytest.mark.filterwarnings("ignore::mlo.ResponseWarning")
def test_the_cotangent_is_accumulated_and_solved_for_once():
    """The response sees the gradient of the mean over all micro-batches, once an update."""

    def program(log):
        def answer(inner, solution, upstream, vector, context):
            log.append({key: t.clone() for key, t in vector.items()})
            return {}, Outcome(solver="answer", code=Status.ONE_STEP)

        return reweighted(answer)

    logs = [], []
    micro, _ = pair(lambda: program(logs[0]), {"model": 1, "weights": 4})
    _, whole = pair(lambda: program(logs[1]), {"model": 1, "weights": 4})
    for engine in (micro, whole):
        engine.run(2, show_progress=False)
    assert [len(log) for log in logs] == [2, 2]
    for left, right in zip(*logs, strict=True):
        assert relative_error(left, right) < 1e-12


@pytest.mark.parametrize("upper", [1, 5])
def test_evaluations_of_the_lower_loss_do_not_grow_with_the_upper_micro_batches(upper):
    graph, counts = counted(reweighted(mlo.neumann(terms=4)))
    batches = {name: [rows(4, seed) for seed in range(6)] for name in graph.problems}
    engine = Engine(runnable(graph, {"model": 3, "weights": upper}, batches), device="cpu")
    engine.update("model")
    counts.update(dict.fromkeys(counts, 0))
    engine.update("weights")
    # One graph of the gradient on each of the lower micro-batches, whatever the number of terms.
    assert counts == {"model": 3, "weights": upper}


def test_hessian_products_are_those_of_one_solve():
    products = []

    def solver(hvp, vector, context):
        products.append({key: t.clone() for key, t in hvp(vector).items()})
        return vector, Outcome(solver="once", code=Status.ONE_STEP)

    micro, whole = pair(lambda: reweighted(mlo.implicit(solver)), {"model": 3, "weights": 4})
    for engine in (micro, whole):
        engine.update("model")
        engine.update("weights")
    left, right = products
    assert relative_error(left, right) < 1e-11


def test_schedulers_step_once_an_update():
    graph = reweighted(mlo.identity())
    batches = {name: [rows(4, seed) for seed in range(4)] for name in graph.problems}
    problems = [
        replace(p, scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5))
        for p in runnable(graph, {"model": 4, "weights": 3}, batches).problems.values()
    ]
    engine = Engine(Graph(*problems), device="cpu")
    engine.run(2, show_progress=False)
    assert [o.param_groups[0]["lr"] for o in engine.optimizers.values()] == [0.025, 0.025]


def test_sparse_gradients_of_micro_batches():
    def program(sparse):
        torch.manual_seed(0)
        table = nn.Embedding(10, 2, sparse=sparse).double()
        return Problem(
            name="table",
            module=table,
            loss=lambda table, batch: table(batch).sin().sum(1).mean(),
            batches=[torch.tensor([1, 2, 2, 5]), torch.tensor([2, 7, 9, 9])],
            accumulate=2,
            optimizer=sgd(),
        )

    problems = [program(sparse) for sparse in (False, True)]
    for problem in problems:
        Engine(Graph(problem), device="cpu").run(3, show_progress=False)
    dense, sparse = (p.module.weight for p in problems)
    assert torch.allclose(sparse, dense, rtol=1e-12)
    assert torch.equal(sparse[0], dense[0])


def test_a_parameter_that_only_one_micro_batch_uses():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left = nn.Parameter(torch.tensor(1.0).double())
            self.right = nn.Parameter(torch.tensor(2.0).double())

    two = Two()
    problem = Problem(
        name="two",
        module=two,
        loss=lambda two, batch: two.left * 4 if batch == "left" else two.right * 6,
        batches=["left", "right"],
        accumulate=2,
        optimizer=sgd(1.0),
    )
    swept = Engine(Graph(problem), device="cpu").update("two")
    assert {k: float(g) for k, g in swept.gradient.items()} == {"left": 2.0, "right": 3.0}
    assert float(swept.loss) == (4 + 12) / 2
    assert (two.left.item(), two.right.item()) == (-1.0, -1.0)


def test_batches_are_drawn_in_their_order_through_the_ends_of_epochs():
    drawn = []

    def loss(x, batch):
        drawn.append(batch)
        return x.value.sum() * batch

    problem = Problem(
        name="x", module=Vector(1.0), loss=loss, batches=[1, 2, 3], accumulate=2, optimizer=sgd()
    )
    Engine(Graph(problem), device="cpu").run(3, show_progress=False)
    assert drawn == [1, 2, 3, 1, 2, 3]


def test_a_micro_batch_that_is_not_finite_refuses_the_whole_update():
    problem = Problem(
        name="x",
        module=Vector(1.0),
        loss=lambda x, batch: x.value.sum() * batch,
        batches=[1.0, torch.nan],
        accumulate=2,
        optimizer=sgd(),
    )
    with pytest.raises(mlo.NonFiniteError, match="problem 'x', round 1: loss is nan"):
        Engine(Graph(problem), device="cpu").run(1)
    assert problem.module.value.item() == 1.0


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "2"])
def test_a_number_of_micro_batches_that_cannot_be(value):
    with pytest.raises(ProblemError, match="problem 'x': accumulate must be an integer >= 1, got"):
        Problem(name="x", module=Vector(1.0), loss=lambda x: x.value.sum(), accumulate=value)


def test_micro_batches_of_a_loss_without_batches():
    problem = Problem(
        name="x",
        module=Vector(1.0),
        loss=lambda x: x.value.sum(),
        accumulate=2,
        optimizer=sgd(),
    )
    with pytest.raises(ProblemError, match="problem 'x': accumulate=2 takes batches, got None"):
        Engine(Graph(problem), device="cpu")
