"""Programs whose modules are sharded: the same rounds as in one process with the global batch."""

import math

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import mlo
from mlo import Engine, Graph, Problem
from mlo.errors import GraphError, ProblemError
from tests.parallel.launching import on_ranks
from tests.parallel.sharding import is_let_go, network, parts, whole

RESPONSES = {
    "finite_difference": mlo.finite_difference,
    "identity": lambda: mlo.identity(product="finite_difference"),
    "value_function": lambda: mlo.value_function(steps=4, rate=0.002),
    "neumann": lambda: mlo.neumann(terms=3, rate=0.002, product="finite_difference"),
    "cg": lambda: mlo.cg(steps=3, damping=50.0, product="finite_difference"),
}


class Reweighting(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(1, 4)
        self.out = nn.Linear(4, 1)
        self.decay = nn.Parameter(torch.tensor([-3.0]))

    def forward(self, losses):
        weights = torch.sigmoid(self.out(torch.tanh(self.hidden(losses[:, None]))))
        # Not as a view: what leaves a sharded module must be no view.
        return weights + 0.0, self.decay.exp() * torch.ones(1).double()


def train_loss(model, weights, batch):
    x, y = batch
    losses = (model(x) - y).square().sum(1)
    weight, decay = weights(losses.detach())
    return (weight.squeeze(1) * losses).mean() + (decay * model(x).square().mean()).sum()


def weighted_loss(model, weights, batch):
    x, y = batch
    losses = (model(x) - y).square().sum(1)
    return mlo.weighted(losses, weights(losses.detach())[0].squeeze(1))


def mean_loss(model, weights, batch):
    return weighted_loss(model, weights, batch).value


def valid_loss(model, batch):
    x, y = batch
    return (model(x) - y).square().sum(1).mean()


def batches(count, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [(draw(count, 4), draw(count, 3)) for _ in range(3)]


def program(response, *, lower=False, upper=False, count=8, loss=train_loss, accumulate=1):
    """Return a program; `lower` and `upper` say what is sharded."""
    torch.manual_seed(0)
    reweighting = Reweighting().double()
    if upper:
        fully_shard(reweighting)
    return Graph(
        Problem(
            name="model",
            module=network(sharded=lower),
            loss=loss,
            batches=batches(count, 1),
            steps=2,
            accumulate=accumulate,
            optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
            response=response,
        ),
        Problem(
            name="weights",
            module=reweighting,
            loss=valid_loss,
            batches=batches(count, 2),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
            clipping=mlo.Clipping(total=0.05) if accumulate > 1 else None,
        ),
    )


def values(graph):
    return {
        f"{name}.{key}": whole(tensor)
        for name, problem in graph.problems.items()
        for key, tensor in problem.module.named_parameters()
    }


def run(ranks, kind, rounds=4, **options):
    """Return the gradients and losses of all updates, and the parameters at the end."""
    graph = program(RESPONSES[kind](), **options)
    engine = Engine(graph, "cpu", ranks=ranks)
    updates = []

    def keep(name, swept):
        gradient = {key: whole(tensor) for key, tensor in swept.gradient.items()}
        updates.append((name, float(swept.loss), gradient))

    engine.after_update = keep
    engine.run(rounds=rounds, show_progress=False)
    for name, is_sharded in (("model", options.get("lower")), ("weights", options.get("upper"))):
        module = graph.problems[name].module
        if is_sharded:
            assert is_let_go(module)
            for parameter, part in zip(module.parameters(), parts(module), strict=True):
                assert len(part) <= math.ceil(len(parameter) / ranks.size)
    return updates, values(graph)


def assert_same(found, expected, tolerance=1e-10):
    assert [name for name, _, _ in found[0]] == [name for name, _, _ in expected[0]]
    for (_, loss, gradient), (_, other_loss, other) in zip(found[0], expected[0], strict=True):
        assert abs(loss - other_loss) < tolerance
        assert gradient.keys() == other.keys()
        for key, tensor in gradient.items():
            torch.testing.assert_close(tensor, other[key], rtol=0, atol=tolerance)
    assert found[1].keys() == expected[1].keys()
    for key, tensor in found[1].items():
        torch.testing.assert_close(tensor, expected[1][key], rtol=0, atol=tolerance)


def assert_moves(expected):
    """Refuse a reference in which nothing would be seen: hypergradients near zero."""
    sizes = [
        max(float(t.abs().max()) for t in gradient.values())
        for name, _, gradient in expected[0]
        if name == "weights"
    ]
    assert min(sizes) > 1e-4


def compare(kind, size, **options):
    alone = {k: v for k, v in options.items() if k not in {"lower", "upper"}}
    if alone.get("loss") is weighted_loss:
        # In one process its mixed derivative is taken in forward mode.
        alone["loss"] = mean_loss
    expected = run(None, kind, **alone)
    assert_moves(expected)
    for found in on_ranks(of_options, size, kind, options):
        assert_same(found, expected)


def of_options(ranks, kind, options):
    return run(ranks, kind, **options)


def test_a_sharded_model_trains_as_in_one_process():
    compare("finite_difference", 2, lower=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESPONSES)
@pytest.mark.parametrize(("lower", "upper"), [(True, False), (False, True), (True, True)])
def test_every_response_for_sharded_modules_is_that_of_one_process(kind, lower, upper):
    compare(kind, 2, lower=lower, upper=upper)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "options"),
    [
        (4, {"lower": True, "upper": True}),
        (2, {"lower": True, "count": 7}),
        (3, {"lower": True, "upper": True, "count": 7}),
        (2, {"lower": True, "loss": weighted_loss}),
        (2, {"lower": True, "upper": True, "accumulate": 2}),
    ],
    ids=["four ranks", "uneven rows", "three ranks", "weighted", "accumulated and clipped"],
)
def test_other_shapes_of_the_run(size, options):
    compare("finite_difference", size, **options)


def of_a_state(ranks, state, options):
    """Return the state after two rounds from the start, or from a state on."""
    engine = Engine(program(mlo.finite_difference(), **options), "cpu", ranks=ranks)
    if state is not None:
        engine.load_state_dict(state)
    engine.run(rounds=2, show_progress=False)
    found = engine.state_dict()
    assert not any(isinstance(t, DTensor) for t in tensors_of(found))
    return found, values(engine.graph)


def tensors_of(state):
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        return [tensor for item in state for tensor in tensors_of(item)]
    return [state] if isinstance(state, torch.Tensor) else []


@pytest.mark.slow
def test_a_state_goes_on_with_any_number_of_ranks_and_without():
    options = {"lower": True, "upper": True}
    _, expected = run(None, "finite_difference", rounds=4)
    saved = on_ranks(of_a_state, 2, None, options)[0][0]
    for size, chosen in ((2, options), (3, options), (2, {}), (1, {"upper": True})):
        for _, found in on_ranks(of_a_state, size, saved, chosen):
            for key, tensor in found.items():
                torch.testing.assert_close(tensor, expected[key], rtol=0, atol=1e-10)


def of_a_fault(ranks):
    calls = []

    def failing(model, weights, batch):
        calls.append(None)
        loss = train_loss(model, weights, batch)
        # Two updates have come before; then both sides of the difference.
        if len(calls) == 4:
            raise RuntimeError("the loss fails")
        return loss

    graph = program(mlo.finite_difference(), lower=True, loss=failing)
    engine = Engine(graph, "cpu", ranks=ranks)
    engine.update("model")
    engine.update("model")
    model = graph.problems["model"].module
    before = parts(model)
    with pytest.raises(RuntimeError, match="the loss fails"):
        engine.update("weights")
    assert is_let_go(model)
    assert all(map(torch.equal, parts(model), before))
    engine.update("weights")
    assert all(map(torch.equal, parts(model), before))
    return values(graph)


def test_weights_are_restored_bit_for_bit_when_a_loss_fails_at_another_point():
    first, second = on_ranks(of_a_fault, 2)
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key])


def of_refusals(ranks):
    messages = []
    for lower, upper in ((True, False), (False, True)):
        for response in (mlo.cg(), mlo.exact(product="finite_difference"), mlo.unrolled(steps=2)):
            with pytest.raises(GraphError) as caught:
                program(response, lower=lower, upper=upper)
            messages.append(str(caught.value))
    graph = program(mlo.finite_difference(), lower=True)
    for options in ({}, {"ranks": ranks, "compiled": True}):
        with pytest.raises(ProblemError) as refused:
            Engine(graph, "cpu", **options)
        messages.append(str(refused.value))
    return messages


def test_what_takes_second_derivatives_is_refused_by_name():
    first, second = on_ranks(of_refusals, 2)
    assert first == second
    for message in first:
        assert "\n" not in message
    for message, name in zip(first[:6], ["model"] * 3 + ["weights"] * 3, strict=True):
        assert f"differentiates its loss twice, which the module of {name!r}, sharded" in message
        assert "mlo.finite_difference()" in message
    assert first[0].startswith("problem 'model': cg(steps=10) differentiates its loss twice")
    assert "ranks=None" in first[6]
    assert "compiled=True" in first[7]
