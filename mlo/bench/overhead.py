"""What the engine adds to a round of a tiny program, where arithmetic costs next to nothing."""

from itertools import cycle
from statistics import median

import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from mlo.bench import by_hand, engines, peers
from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.programs import MODEL, Batch, Parts, Shape, reweighting
from mlo.bench.timing import Action, against, interleaved, sampling_of
from mlo.bench.variant import check_equal, gradient_of_round
from mlo.engine import Engine
from mlo.graph import Graph
from mlo.problem import Problem
from mlo.response.one_step import finite_difference

HAND, MLO = "by hand", "mlo"
NOTES = (
    "A network of 1,090 parameters, batch 64, SGD. The bilevel round is one lower update and one "
    "upper update by finite differences with learned loss weights.",
    "Added: median of the paired differences to the hand-written loop.",
)


def run(settings: Settings) -> Result:
    """Time a plain update and a bilevel round against hand-written loops."""
    rounds = {"plain update": _plain(settings), "bilevel round": _bilevel(settings)}
    rows: list[Row] = []
    with peers.quiet():
        for label, actions in rounds.items():
            samples = interleaved(
                actions, device=settings.device, sampling=sampling_of(quick=settings.quick)
            )
            pairs = zip(samples[MLO], samples[HAND], strict=True)
            ratios = against(samples, HAND)
            rows.append(
                {
                    "round": label,
                    "by hand (µs)": _microseconds(median(samples[HAND])),
                    "mlo (µs)": _microseconds(median(samples[MLO])),
                    "added (µs)": _microseconds(median(a - b for a, b in pairs)),
                    MLO: ratios[MLO],
                    peers.BETTY: ratios.get(peers.BETTY, "not installed"),
                }
            )
    return Result(title="Overhead of a round with 1k parameters", rows=rows, notes=NOTES)


CASE = Case(
    name="overhead",
    summary="what the engine adds to a plain update and to a bilevel round, in microseconds",
    run=run,
)


def _bilevel(settings: Settings) -> dict[str, Action]:
    def parts() -> Parts:
        return reweighting(Shape(size="1k", device=settings.device, seed=settings.seed))

    variants = {
        HAND: by_hand.build(parts(), by_hand.finite_difference),
        MLO: engines.build(parts(), finite_difference(radius=by_hand.RADIUS), settings.device),
    }
    gradients = {name: gradient_of_round(steps) for name, steps in variants.items()}
    check_equal("bilevel round", gradients, HAND, 1e-5)
    if peers.installed(peers.BETTY):
        options = {"type": "darts", "darts_alpha": by_hand.RADIUS}
        variants[peers.BETTY] = peers.betty(parts(), options, settings.device)
        variants[peers.BETTY].round()
    return {name: steps.round for name, steps in variants.items()}


def _plain(settings: Settings) -> dict[str, Action]:
    """Return one update of a network alone, by every variant."""

    def parts() -> Parts:
        return reweighting(Shape(size="1k", device=settings.device, seed=settings.seed))

    hand, declared = parts(), parts()
    weights, batches = list(hand.model.parameters()), cycle(hand.train)
    optimizer = SGD(weights, lr=hand.rate)

    def by_hand_update() -> None:
        inputs, targets = next(batches)
        loss = cross_entropy(hand.model(inputs), targets)
        gradients = torch.autograd.grad(loss, weights)
        for parameter, gradient in zip(weights, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        inputs, targets = batch
        return cross_entropy(model(inputs), targets)

    problem = Problem(
        name=MODEL,
        module=declared.model,
        loss=loss,
        batches=declared.train,
        optimizer=lambda p: SGD(p, lr=declared.rate),
    )
    engine = Engine(Graph(problem), device=settings.device)
    actions: dict[str, Action] = {HAND: by_hand_update, MLO: lambda: engine.update(MODEL)}
    if peers.installed(peers.BETTY):
        actions[peers.BETTY] = _by_betty(parts(), settings)
    for action in (by_hand_update, actions[MLO]):
        action()
    updated = {HAND: weights, MLO: list(declared.model.parameters())}
    check_equal(
        "plain update", {n: [p.detach() for p in w] for n, w in updated.items()}, HAND, 1e-6
    )
    return actions


def _by_betty(parts: Parts, settings: Settings) -> Action:
    def training_step(problem: object, batch: Batch) -> torch.Tensor:
        del problem
        inputs, targets = batch
        return cross_entropy(parts.model(inputs), targets)

    problem = peers.betty_problem(MODEL, training_step, parts.model, parts.rate, parts.train, {})
    peers.run_betty([problem], {}, {}, settings.device)
    action: Action = problem.one_step_descent
    return action


def _microseconds(seconds: float) -> float:
    return round(1e6 * seconds, 1)
