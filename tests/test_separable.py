"""Separable losses: the mixed derivative is exact, and not taken the way that torch gets wrong."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.functional import cross_entropy

import mlo
from mlo import Graph, Problem, ProblemError, hypergradient, weighted
from mlo.forward_mode import separable_mixed
from mlo.inner import Inner
from mlo.separable import Weighted, scalar
from tests.programs import counted, relative_error

EXAMPLES, INPUTS, CLASSES = 12, 5, 3


def batch_of(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES, INPUTS, generator=generator, dtype=dtype)
    targets = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    return torch.arange(EXAMPLES), inputs, targets


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 8), *layers, nn.ReLU(), nn.Linear(8, CLASSES)).double()


def program(model, response, *, form=weighted, penalty=False, wrapped=True):
    """Weights of examples, one each, above a classifier."""

    def train_loss(model, weights, batch):
        rows, inputs, targets = batch
        losses = cross_entropy(model(inputs), targets, reduction="none")
        loss = form(losses, weights.weight[rows, 0].sigmoid())
        if penalty:
            loss = loss + 0.01 * sum(p.square().sum() for p in model.parameters())
        return loss if wrapped else scalar(loss)

    def valid_loss(model, batch):
        _, inputs, targets = batch
        return cross_entropy(model(inputs), targets)

    torch.manual_seed(1)
    return Graph(
        Problem(
            name="model",
            module=model,
            loss=train_loss,
            batches=[batch_of()],
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            response=response,
        ),
        Problem(
            name="weights",
            module=nn.Embedding(EXAMPLES, 1).double(),
            loss=valid_loss,
            batches=[batch_of(1)],
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        ),
    )


def gradient(graph):
    batches = {"model": batch_of(), "weights": batch_of(1)}
    return hypergradient(graph, "weights", batches).gradient


def normalized(losses, weights):
    return weighted(losses, weights, normalized=True)


NORMALISATIONS = {
    "none": [],
    "batch norm": [nn.BatchNorm1d(8)],
    "layer norm": [nn.LayerNorm(8)],
    "instance norm": [nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2), nn.Flatten()],
    "dropout": [nn.Dropout(0.5)],
}


@pytest.mark.parametrize("layers", NORMALISATIONS.values(), ids=NORMALISATIONS)
@pytest.mark.parametrize("form", [weighted, normalized], ids=["mean", "normalised"])
@pytest.mark.parametrize("penalty", [False, True], ids=["", "with a penalty"])
@pytest.mark.parametrize(
    "response",
    [
        mlo.finite_difference(rate=0.5),
        mlo.identity(rate=0.5),
        mlo.cg(steps=3, damping=1.0),
        mlo.neumann(terms=3, rate=0.1),
    ],
    ids=lambda r: r.label,
)
def test_the_product_equals_double_backward(response, penalty, form, layers):
    """In train mode, on ReLU networks, where differences are off by as much as the answer."""
    exact = mlo.identity(rate=0.5) if "finite" in response.label else response
    torch.manual_seed(7)
    found = gradient(program(network(*layers), response, form=form, penalty=penalty))
    torch.manual_seed(7)
    expected = gradient(program(network(*layers), exact, form=form, penalty=penalty, wrapped=False))
    assert relative_error(found, expected) < 1e-12


def test_a_difference_is_wrong_at_kinks_where_the_separable_product_is_exact():
    """The claim behind it, measured: the same response without `weighted` is far off."""
    expected = gradient(program(network(), mlo.identity(rate=0.5), wrapped=False))
    response = mlo.finite_difference(radius=1.0, rate=0.5)
    plain = gradient(program(network(), response, wrapped=False))
    separable = gradient(program(network(), response))
    assert relative_error(plain, expected) > 1e-3
    assert relative_error(separable, expected) < 1e-12


def test_reverse_over_forward_through_normalisation_is_what_must_not_be_taken():
    """Why no product differentiates backwards through a forward-mode pass of the losses."""
    wrong = []
    for name in ("batch norm", "layer norm", "instance norm"):
        model = network(*NORMALISATIONS[name])
        params = {n: p.detach() for n, p in model.named_parameters()}
        vector = {n: torch.ones_like(p) for n, p in params.items()}
        _, inputs, _ = batch_of()

        def loss(p, inputs, model=model):
            return torch.func.functional_call(model, p, (inputs,)).pow(4).sum()

        leaf = inputs.clone().requires_grad_()
        with forward_ad.dual_level():
            dual = {n: forward_ad.make_dual(p, vector[n]) for n, p in params.items()}
            tangent = forward_ad.unpack_dual(loss(dual, leaf)).tangent
            (reverse_over_forward,) = torch.autograd.grad(tangent, leaf)
        variables = {n: p.clone().requires_grad_() for n, p in params.items()}
        leaf = inputs.clone().requires_grad_()
        grads = torch.autograd.grad(
            loss(variables, leaf), list(variables.values()), create_graph=True
        )
        directional = sum((g * vector[n]).sum() for n, g in zip(variables, grads, strict=True))
        (double_backward,) = torch.autograd.grad(directional, leaf)
        error = (reverse_over_forward - double_backward).norm() / double_backward.norm()
        wrong.append(float(error))
    if max(wrong) < 1e-9:
        pytest.skip(f"torch {torch.__version__} gets it right")
    assert max(wrong) > 0.01


@pytest.mark.parametrize(
    "response", [mlo.finite_difference(rate=0.5), mlo.identity(rate=0.5)], ids=lambda r: r.label
)
def test_an_engine_that_knows_the_loss_spends_one_evaluation_on_it(response):
    graph, counts = counted(program(network(), response))
    engine = mlo.Engine(graph, device="cpu")
    engine.run(1, show_progress=False)
    before = dict(counts)
    engine.update("weights")
    assert counts["model"] - before["model"] == 1


def test_half_precision_needs_no_difference():
    model = network().bfloat16()
    graph = program(model, mlo.finite_difference(rate=0.5))
    graph.problem("weights").module.bfloat16()
    batches = {"model": batch_of(dtype=torch.bfloat16), "weights": batch_of(1, torch.bfloat16)}
    found = hypergradient(graph, "weights", batches).gradient["weight"]
    assert found.dtype == torch.bfloat16
    assert float(found.float().norm()) > 0


class Coupled:
    """Losses that read what the weights read, or weights that move with the solution."""

    @staticmethod
    def losses_read_upstream(model, weights, batch):
        rows, inputs, targets = batch
        scale = weights.weight[rows].sigmoid()
        losses = cross_entropy(model(inputs) * scale, targets, reduction="none")
        return weighted(losses, scale[:, 0])

    @staticmethod
    def weights_read_the_solution(model, weights, batch):
        rows, inputs, targets = batch
        losses = cross_entropy(model(inputs), targets, reduction="none")
        return weighted(losses, (weights.weight[rows, 0] * losses).sigmoid())

    @staticmethod
    def penalty_reads_upstream(model, weights, batch):
        rows, inputs, targets = batch
        losses = cross_entropy(model(inputs), targets, reduction="none")
        penalty = weights.weight.mean() * model[0].weight.square().sum()
        return weighted(losses, weights.weight[rows, 0].sigmoid()) + penalty


@pytest.mark.parametrize("name", [n for n in vars(Coupled) if not n.startswith("_")])
@pytest.mark.parametrize("response", [mlo.identity(rate=0.5), mlo.exact(damping=5.0)])
def test_what_is_not_separable_is_noticed_and_taken_the_general_way(name, response):
    loss = getattr(Coupled, name)

    def graph(loss):
        base = program(network(), response)
        model, weights = base.problems.values()
        return Graph(
            Problem(name="model", module=model.module, loss=loss, response=response), weights
        )

    def as_number(model, weights, batch):
        return loss(model, weights, batch).value

    assert relative_error(gradient(graph(loss)), gradient(graph(as_number))) < 1e-12


def test_what_is_not_separable_falls_back_to_differences_too():
    base = program(network(), mlo.finite_difference(1e-4, rate=0.5))
    model, weights = base.problems.values()
    loss = Coupled.penalty_reads_upstream
    graph = Graph(
        Problem(name="model", module=model.module, loss=loss, response=model.response), weights
    )
    exact = Graph(
        Problem(name="model", module=model.module, loss=loss, response=mlo.identity(rate=0.5)),
        weights,
    )
    assert relative_error(gradient(graph), gradient(exact)) < 1e-6


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos()


def test_an_operation_without_a_forward_mode_falls_back_to_double_backward():
    class Sine(nn.Module):
        def forward(self, x):
            return NoForwardMode.apply(x)

    def graph(wrapped):
        return program(network(Sine()), mlo.identity(rate=0.5), wrapped=wrapped)

    assert relative_error(gradient(graph(True)), gradient(graph(False))) < 1e-12


def test_weights_that_nothing_above_moves_give_no_answer():
    inner = Inner(
        evaluate=lambda solution, upstream, batch: weighted(solution["x"] ** 2, torch.ones(3))
    )
    x = {"x": torch.ones(3)}
    assert separable_mixed(inner, x, {"a": {"w": torch.ones(3)}}, {"x": torch.ones(3)}) == {}


def test_detached_losses_inside_the_weights_stay_constant():
    """Meta-Weight-Net reads ``losses.detach()``: a difference sees through it, autograd not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid()).double()

    def loss(model, weights, batch):
        _, inputs, targets = batch
        losses = cross_entropy(model(inputs), targets, reduction="none")
        return weighted(losses, weights(losses.detach()[:, None])[:, 0])

    def graph(response):
        base = program(network(), response)
        _, weights = base.problems.values()
        return Graph(
            Problem(name="model", module=network(), loss=loss, response=response),
            Problem(name="weights", module=net, loss=weights.loss),
        )

    found = gradient(graph(mlo.finite_difference(rate=0.5)))
    assert relative_error(found, gradient(graph(mlo.identity(rate=0.5)))) < 1e-12


def test_shapes_that_would_be_broadcast_are_refused():
    with pytest.raises(ProblemError, match=r"the same shape, got \(3,\) and \(3, 1\)"):
        weighted(torch.ones(3), torch.ones(3, 1))


def test_a_penalty_must_be_a_number():
    def loss(x, batch=None):
        return weighted(x.weight[0], torch.ones(2)) + torch.ones(2)

    graph = Graph(Problem(name="x", module=nn.Linear(2, 1), loss=loss))
    with pytest.raises(
        ProblemError, match=r"added to mlo.weighted must be a 0-dim tensor, got .*2"
    ):
        hypergradient(graph, "x")


def test_penalties_add_up_from_either_side():
    loss = 1.0 + weighted(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.5])) + torch.tensor(2.0)
    assert isinstance(loss, Weighted)
    assert float(loss.value) == 1.25 + 3


def test_what_is_computed_without_gradients_is_a_constant_in_forward_mode_too():
    """Forward mode does not know of ``no_grad``, as a loss with pseudo-labels needs it."""

    def graph(*, wrapped):
        base = program(network(), mlo.identity(rate=0.5))
        _, weights = base.problems.values()

        def loss(model, weights, batch):
            rows, inputs, _ = batch
            with torch.no_grad():
                labels = (2 * model(inputs)).softmax(-1)
            losses = -(labels * model(inputs).log_softmax(-1)).sum(-1)
            found = weighted(losses, weights.weight[rows, 0].sigmoid())
            return found if wrapped else found.value

        lower = Problem(name="model", module=network(), loss=loss, response=mlo.identity(rate=0.5))
        return Graph(lower, weights)

    assert relative_error(gradient(graph(wrapped=True)), gradient(graph(wrapped=False))) < 1e-12


def test_a_loss_that_takes_derivatives_itself_falls_back():
    def graph(*, wrapped):
        base = program(network(), mlo.identity(rate=0.5))
        _, weights = base.problems.values()

        def loss(model, weights, batch):
            rows, inputs, targets = batch
            losses = cross_entropy(model(inputs), targets, reduction="none")
            slopes = torch.autograd.grad(losses.sum(), model[0].weight, create_graph=True)[0]
            found = weighted(losses, weights.weight[rows, 0].sigmoid()) + slopes.square().sum()
            return found if wrapped else found.value

        lower = Problem(name="model", module=network(), loss=loss, response=mlo.identity(rate=0.5))
        return Graph(lower, weights)

    assert relative_error(gradient(graph(wrapped=True)), gradient(graph(wrapped=False))) < 1e-12


def test_weighted_losses_can_be_scaled_and_added():
    one = weighted(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.5]))
    assert float((2 * one - 1).value) == 1.5
    assert float((-one / 2).value) == -0.625
    assert float(sum([one, one + 1]).value) == 3.5
    assert float((1 - one).value) == -0.25
    with pytest.raises(ProblemError, match="must be tensors, got list and list"):
        weighted([1.0], [1.0])
