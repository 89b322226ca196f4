import functools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import mlo
from mlo.bench.engines import declare
from mlo.bench.programs import PROGRAMS, Shape
from tests.programs import network, regression_batches, two_levels

CPU = torch.device("cpu")
# Captures as inductor does, differentiates as inductor does, and compiles nothing.
CAPTURED = functools.partial(torch.compile, backend="aot_eager")
# Of one loss: as updated, as read from above and as moved by a difference.
MOST_VARIANTS = 4

RESPONSES = [
    mlo.finite_difference(),
    mlo.value_function(steps=2),
    mlo.neumann(terms=2, product="finite_difference"),
    mlo.identity(),
    mlo.cg(steps=2, damping=1.0),
    mlo.stationarity_penalty(steps=2),
    mlo.unrolled(),
]
FIRST_ORDER = RESPONSES[:3]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def labels(response):
    return response.label


class Counting:
    """Compiles nothing, and counts what is called."""

    def __init__(self):
        self.calls = {}

    def __call__(self, loss):
        name = loss.__name__
        self.calls[name] = 0

        @functools.wraps(loss)
        def compiled(**arguments):
            self.calls[name] += 1
            return loss(**arguments)

        return compiled


def counted(response, **options):
    """Return how often each compiled loss is called in a round of `two_levels`."""
    compiler = Counting()
    batches = regression_batches()
    graph = two_levels(network(), response, **options)
    problems = [
        replace(p, batches=[batches[p.name]], optimizer=lambda q: torch.optim.SGD(q, lr=0.1))
        for p in graph.problems.values()
    ]
    mlo.Engine(mlo.Graph(*problems), device=CPU, compiled=compiler).run(1, show_progress=False)
    return compiler.calls


def parameters_after(rounds, response, program, dtype, compiled):
    parts = PROGRAMS[program](Shape(size="1k", device=CPU, dtype=dtype))
    engine = mlo.Engine(declare(parts, response), device=CPU, compiled=compiled)
    engine.run(rounds, show_progress=False)
    return torch.cat(
        [p.detach().flatten() for m in (parts.model, parts.upper) for p in m.parameters()]
    )


@pytest.mark.parametrize(
    ("response", "calls"),
    [
        # One update, and the two sides of a difference.
        (mlo.finite_difference(), 1 + 2),
        (mlo.neumann(terms=2, product="finite_difference"), 1 + 4),
        (mlo.value_function(steps=2), 1 + 3),
        # The update alone: products are by double backward.
        (mlo.identity(), 1),
        (mlo.cg(steps=2), 1),
        (mlo.stationarity_penalty(steps=2), 1),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_compiled_where_differentiated_once_and_backwards(response, calls):
    assert counted(response) == {"train_loss": calls, "valid_loss": 1}


def test_updates_that_are_made_again_are_not_compiled():
    """A compiled loss may draw another dropout mask than the eager one that is differentiated."""
    assert counted(mlo.unrolled()) == {"valid_loss": 1}


def test_a_separable_loss_is_not_compiled_in_forward_mode():
    compiler, seen = Counting(), []

    def train_loss(model, weights, batch):
        seen.append(torch.autograd.forward_ad.unpack_dual(model.weight).tangent is not None)
        return mlo.weighted((model(batch) - 1).square(), weights(batch.square()))

    def valid_loss(model, batch):
        return model(batch).square().mean()

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    batch = torch.randn(5, 1, generator=torch.Generator().manual_seed(0))
    graph = mlo.Graph(
        mlo.Problem(
            name="model",
            module=nn.Linear(1, 1),
            loss=train_loss,
            batches=[batch],
            optimizer=sgd,
            response=mlo.finite_difference(),
        ),
        mlo.Problem(
            name="weights",
            module=nn.Linear(1, 1),
            loss=valid_loss,
            batches=[batch],
            optimizer=sgd,
        ),
    )
    mlo.Engine(graph, device=CPU, compiled=compiler).run(1, show_progress=False)
    # An update, the pass with tangents, and the backward pass that it is tested against once.
    assert seen == [False, True, False]
    assert compiler.calls == {"train_loss": 1, "valid_loss": 1}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("response", FIRST_ORDER, ids=labels)
def test_equal_to_eager_in_float64(program, response):
    both = [
        parameters_after(3, response, program, torch.float64, compiled)
        for compiled in (False, CAPTURED)
    ]
    torch.testing.assert_close(both[1], both[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("response", RESPONSES[3:], ids=labels)
def test_double_backward_goes_on_beside_compiled_updates(response):
    both = [
        parameters_after(2, response, "reweighting", torch.float64, compiled)
        for compiled in (False, CAPTURED)
    ]
    torch.testing.assert_close(both[1], both[0], rtol=1e-12, atol=1e-13)


def test_equal_to_eager_in_float32():
    both = [
        parameters_after(3, mlo.finite_difference(), "reweighting", torch.float32, compiled)
        for compiled in (False, CAPTURED)
    ]
    torch.testing.assert_close(both[1], both[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("response", FIRST_ORDER, ids=labels)
def test_rounds_compile_a_bounded_number_of_variants(program, response):
    """Parameters, moved tensors and constants are different inputs; further rounds bring none."""
    parts = PROGRAMS[program](Shape(size="1k", device=CPU))
    engine = mlo.Engine(declare(parts, response), device=CPU, compiled=CAPTURED)
    engine.run(2, show_progress=False)
    compiled = counters["stats"]["unique_graphs"]
    engine.run(4, show_progress=False)
    assert 2 <= compiled == counters["stats"]["unique_graphs"] <= 2 * MOST_VARIANTS
    assert not counters["graph_break"]


def test_buffers_move_as_without_compiling():
    found = []
    for compiled in (False, CAPTURED):
        model = network(nn.BatchNorm1d(6))
        graph = two_levels(model, mlo.finite_difference())
        batches = regression_batches()
        problems = [
            replace(p, batches=[batches[p.name]], optimizer=lambda q: torch.optim.SGD(q, lr=0.1))
            for p in graph.problems.values()
        ]
        engine = mlo.Engine(mlo.Graph(*problems), device=CPU, compiled=compiled)
        engine.run(3, show_progress=False)
        found.append(model[1].state_dict())
    assert found[1]["num_batches_tracked"] == 3
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-13)


def test_a_compiled_loss_has_no_second_derivative_so_it_must_not_be_asked_for_one():
    """What this module exists for: torch refuses, and only once that is tried."""

    def loss(x):
        return x.pow(3).sum()

    x = torch.ones(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(CAPTURED(loss)(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"create_graph|double backward"):
        torch.autograd.grad(gradient.sum(), x)


@pytest.mark.parametrize("option", [None, 1, "inductor"])
def test_options_that_compile_nothing_are_refused(option):
    graph = declare(PROGRAMS["reweighting"](Shape(size="1k", device=CPU)), mlo.finite_difference())
    with pytest.raises(mlo.MloError, match=r"compiled must be a bool or a function of a loss.*got"):
        mlo.Engine(graph, device=CPU, compiled=option)


def test_a_compiler_that_gives_no_function_is_refused():
    graph = declare(PROGRAMS["reweighting"](Shape(size="1k", device=CPU)), mlo.finite_difference())
    with pytest.raises(mlo.MloError, match=r"'model': compiled must give a function.*got int"):
        mlo.Engine(graph, device=CPU, compiled=lambda loss: 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_inductor_is_equal_to_eager(dtype, bound):
    both = [
        parameters_after(3, mlo.finite_difference(), "reweighting", dtype, compiled)
        for compiled in (False, True)
    ]
    assert float((both[1] - both[0]).norm() / both[0].norm()) < bound
