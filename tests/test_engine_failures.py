"""A loss that is not finite is named, and nothing is poisoned by it."""

import warnings

import pytest
import torch
from torch import nn

import mlo
from mlo import Engine, Graph, NonFiniteError, Problem, ProblemError
from mlo.response_warning import ResponseWarning
from tests.programs import Vector, same_bits, snapshot

BAD = [torch.nan, torch.inf]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.1)


def state(engine):
    """Everything that training changes."""
    return {
        f"{name}.{position}.{key}": torch.as_tensor(value).clone()
        for name, optimizer in engine.optimizers.items()
        for position, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def weighted_mean(lower_batches, upper_batches=(1.0,)):
    """Fit x to the batch times `above`; a bad number in a batch makes the loss bad."""
    return Graph(
        Problem(
            name="x",
            module=Vector(0.5, 0.1),
            loss=lambda x, above, batch: (x.value - batch * above.value).square().sum(),
            batches=list(lower_batches),
            optimizer=adam,
            response=mlo.identity(),
        ),
        Problem(
            name="above",
            module=Vector(1.0),
            loss=lambda x, batch: (x.value * batch - 2).square().sum(),
            batches=list(upper_batches),
            optimizer=adam,
        ),
    )


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    ("lower", "upper", "problem"), [(3, None, "x"), (None, 3, "above")], ids=["lower", "upper"]
)
def test_the_problem_and_the_round_are_named_and_nothing_has_changed(lower, upper, problem, value):
    batches = [[value if i == bad else 1.0 for i in range(1, 5)] for bad in (lower, upper)]
    engine = Engine(weighted_mean(*batches), device="cpu")
    engine.run(2)
    # Bring the lower problem to where it is when the upper one fails.
    log = []
    engine.optimizers["x"].register_step_post_hook(
        lambda *_: log.append((snapshot(engine.graph), state(engine)))
    )
    log.append((snapshot(engine.graph), state(engine)))
    message = f"problem '{problem}', round 3: loss is {value:g}, expected a finite number; the upd"
    with pytest.raises(NonFiniteError, match=message) as caught:
        engine.run(2)
    assert (caught.value.problem, caught.value.round) == (problem, 3)
    weights, optimizers = log[-1]
    assert same_bits(snapshot(engine.graph), weights)
    assert same_bits(state(engine), optimizers)
    assert all(torch.isfinite(t).all() for t in snapshot(engine.graph).values())


def test_training_can_go_on_after_a_bad_batch():
    engine = Engine(weighted_mean([1.0, torch.nan, 1.0, 1.0]), device="cpu")
    engine.run(1)
    with pytest.raises(NonFiniteError):
        engine.run(1)
    # The round that was refused did not happen.
    assert engine.run(2).number == 3
    assert all(torch.isfinite(t).all() for t in snapshot(engine.graph).values())


def test_a_finite_loss_whose_gradient_is_not_finite():
    root = Problem(
        name="root", module=Vector(0.0), loss=lambda root: root.value.sqrt().sum(), optimizer=adam
    )
    engine = Engine(Graph(root), device="cpu")
    with pytest.raises(NonFiniteError, match="problem 'root', round 1: gradient is not finite, ex"):
        engine.run(1)
    assert root.module.value.item() == 0.0
    assert state(engine) == {}


def test_a_response_that_is_not_finite_is_named_as_the_cause():
    graph = Graph(
        Problem(
            name="x",
            module=Vector(0.5),
            # The loss is finite, its derivative with respect to what is above is not.
            loss=lambda x, above: (x.value * above.value.sqrt()).sum(),
            optimizer=adam,
            response=mlo.identity(),
        ),
        Problem(name="above", module=Vector(0.0), loss=lambda x: x.value.sum(), optimizer=adam),
    )
    with pytest.raises(NonFiniteError, match="problem 'above', round 1: gradient is not") as caught:
        Engine(graph, device="cpu").run(1)
    message = "Through 'x': identity(): the answer is infinite or not a number."
    assert message in str(caught.value)


@pytest.mark.parametrize("reads_another", [False, True])
def test_running_statistics_are_not_poisoned_by_a_refused_batch(reads_another):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.register_buffer("fleeting", torch.zeros(1), persistent=False)

        def forward(self, inputs):
            self.fleeting = self.fleeting + inputs.mean()
            return self.norm(inputs).sum()

    def loss(net, batch):
        return net(batch)

    def loss_with_other(net, other, batch):
        return net(batch) * other.value.sum().float()

    good, bad = torch.randn(4, 2), torch.full((4, 2), torch.nan)
    net = Net()
    problems = [
        Problem(
            name="net",
            module=net,
            loss=loss_with_other if reads_another else loss,
            batches=[good, bad],
            optimizer=adam,
        )
    ]
    if reads_another:
        problems.append(
            Problem(
                name="other",
                module=Vector(1.0),
                loss=lambda other: other.value.square().sum(),
                optimizer=adam,
            )
        )
    engine = Engine(Graph(*problems), device="cpu")
    engine.run(1)
    before = {n: b.clone() for n, b in net.named_buffers()}
    with pytest.raises(NonFiniteError):
        engine.run(1)
    assert same_bits(dict(net.named_buffers()), before)


@pytest.fixture
def deferred(monkeypatch):
    """Run as on an accelerator, where no number may be waited for."""
    for module in ("engine", "updater"):
        monkeypatch.setattr(f"mlo.{module}.synchronous", lambda device: False)


@pytest.mark.usefixtures("deferred")
def test_without_waiting_the_bad_update_is_replaced_by_a_zero_gradient_and_told_at_the_end():
    # Without momentum a zero gradient moves nothing.
    lower = Problem(
        name="x",
        module=Vector(1.0),
        loss=lambda x, batch: (x.value * batch).square().sum(),
        batches=[1.0, torch.nan, 1.0],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.25),
    )
    engine = Engine(Graph(lower), device="cpu")
    rounds = engine.rounds(3)
    values = [(next(rounds), lower.module.value.item())[1] for _ in range(3)]
    assert values == [0.5, 0.5, 0.25]
    message = "problem 'x', round 2: its loss or gradient is not finite; the update was replaced"
    with pytest.raises(NonFiniteError, match=message) as caught:
        next(rounds)
    assert (caught.value.problem, caught.value.round) == ("x", 2)


@pytest.mark.usefixtures("deferred")
def test_without_waiting_a_sound_run_is_bitwise_the_same(monkeypatch):
    def run():
        engine = Engine(weighted_mean([1.0, 0.5], [1.0, 2.0]), device="cpu")
        engine.run(4)
        return snapshot(engine.graph) | state(engine)

    apart = run()
    monkeypatch.undo()
    assert same_bits(apart, run())


@pytest.mark.usefixtures("deferred")
def test_without_waiting_flags_are_read_before_they_pile_up():
    lower = Problem(
        name="x",
        module=Vector(1.0),
        loss=lambda x, batch: (x.value * batch).sum(),
        batches=[torch.nan],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.25),
    )
    engine = Engine(Graph(lower), device="cpu")
    with pytest.raises(NonFiniteError, match="problem 'x', round 1:"):
        engine.run(10_000)
    assert engine.round < 1100


def flat_program():
    """The lower loss is linear in its parameters: its Hessian is zero."""
    return Graph(
        Problem(
            name="x",
            module=Vector(0.5),
            loss=lambda x, above: (x.value * above.value).sum(),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            response=mlo.cg(steps=2),
        ),
        Problem(
            name="above",
            module=Vector(1.0),
            loss=lambda x, above: (x.value + above.value).square().sum(),
            optimizer=adam,
        ),
    )


def test_a_response_that_failed_is_warned_of_once_and_training_goes_on():
    engine = Engine(flat_program(), device="cpu")
    message = r"round 1, gradient of 'above' through 'x': cg\(steps=2\): the Hessian is zero along"
    with pytest.warns(ResponseWarning, match=message) as caught:
        engine.run(5)
    assert len(caught) == 1
    assert engine.round == 5


def test_a_truncated_solve_is_no_reason_to_warn():
    graph = weighted_mean([1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(graph, device="cpu").run(2)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: torch.tensor(1.0),
        lambda x: x.value.detach().sum(),
        torch.no_grad()(lambda x: x.value.sum()),
    ],
)
def test_a_loss_that_does_not_depend_on_its_parameters(loss):
    problem = Problem(name="x", module=Vector(1.0), loss=loss, reads=("x",), optimizer=adam)
    with pytest.raises(ProblemError, match="problem 'x': its loss does not depend on any of its p"):
        Engine(Graph(problem), device="cpu").run(1)


def test_a_loss_that_is_no_scalar():
    problem = Problem(name="x", module=Vector(1.0), loss=lambda x: x.value, optimizer=adam)
    with pytest.raises(ProblemError, match=r"problem 'x': its loss must return a 0-dim .* \(1,\)"):
        Engine(Graph(problem), device="cpu").run(1)


def test_an_exception_in_a_loss_leaves_all_weights_as_they_were():
    graph = weighted_mean([1.0], [1.0, "no number"])
    engine = Engine(graph, device="cpu")
    engine.run(1)
    seen = []
    engine.optimizers["x"].register_step_post_hook(lambda *_: seen.append(snapshot(graph)))
    with pytest.raises(TypeError):
        engine.run(1)
    assert same_bits(snapshot(graph), seen[-1])


def test_a_one_shot_iterator_ends_with_the_name_of_the_problem():
    once = Problem(
        name="x",
        module=Vector(1.0),
        loss=lambda x, batch: (x.value * batch).square().sum(),
        batches=iter([1.0, 2.0]),
        optimizer=adam,
    )
    with pytest.raises(mlo.BatchError, match="problem 'x': batches is a one-shot iterator"):
        Engine(Graph(once), device="cpu").run(3)
