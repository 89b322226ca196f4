"""One round of Learning by Grouping over the passes that it needs, and its mixed products."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import mlo
from mlo import tree
from mlo.bench import lbg_by_hand
from mlo.bench.case import Case, Result, Row, Settings
from mlo.bench.lbg_by_hand import Batch, Lbg, Mixed, Weighted
from mlo.bench.peers import quiet
from mlo.bench.programs import seeded
from mlo.bench.timing import against, interleaved, milliseconds, sampling_of
from mlo.bench.variant import Steps, check_equal, gradient_of_round
from mlo.product import ProductName

PLUGIN = "mlo_lbg"
LEVELS = ("gam", "experts", "assignments")
HAND, MLO = "by hand", "mlo"
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
NOTES = (
    "By hand: the same losses and optimizers with exactly the passes that a round needs, checked "
    "to give the same gradient of C (1e-10 in float64) before anything was timed.",
    "Ratios are medians [quartiles] of pairs timed in alternation.",
    "Error: distance of the hypergradient of C from the one by double backward, relative to the "
    "latter, in float32 on these ReLU networks at the same point and batches.",
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the program is."""

    inputs: int
    hidden: int
    groups: int
    batch: int
    examples: int = 1024
    classes: int = 10


SIZES: Mapping[str, Size] = {
    "digits": Size(inputs=64, hidden=19, groups=2, batch=64),
    "medium": Size(inputs=784, hidden=512, groups=4, batch=256),
}

PRODUCTS: Mapping[str, tuple[Mixed, bool, ProductName]] = {
    "double backward": (lbg_by_hand.by_autograd, False, "autograd"),
    "separable": (lbg_by_hand.separably, True, "autograd"),
    "finite difference": (lbg_by_hand.by_difference, False, "finite_difference"),
}
"""By hand; whether the losses stay weighted, as the plugin declares them; the product of `mlo`."""


def run(settings: Settings) -> Result:
    """Check that both are equal, then time a round of each."""
    title = "Learning by Grouping: one round over its counted passes"
    if find_spec(PLUGIN) is None:
        note = f"{PLUGIN} is not installed, so nothing was measured."
        return Result(title=title, rows=[], notes=(note,))
    rows: list[Row] = []
    with quiet():
        for name in ("digits",) if settings.quick else SIZES:
            rows += _rows(settings, name)
    return Result(title=title, rows=rows, notes=NOTES)


CASE = Case(
    name="lbg_round",
    summary="a round of Learning by Grouping over its counted passes; separable products",
    run=run,
)


def _rows(settings: Settings, name: str) -> list[Row]:
    rows: list[Row] = []
    reference = _hypergradient(settings, name, separable=False, product="autograd")
    for label, (mixed, separable, product) in PRODUCTS.items():
        for dtype, tolerance in TOLERANCES.items():
            gradients = {
                HAND: gradient_of_round(_by_hand(settings, name, dtype, mixed)),
                MLO: gradient_of_round(_by_mlo(settings, name, dtype, separable, product)),
            }
            check_equal(f"{name}, {label}, {dtype}", gradients, HAND, tolerance)
        steps = {
            HAND: _by_hand(settings, name, torch.float32, mixed),
            MLO: _by_mlo(settings, name, torch.float32, separable, product),
        }
        samples = interleaved(
            {key: each.round for key, each in steps.items()},
            device=settings.device,
            sampling=sampling_of(quick=settings.quick),
        )
        found = _hypergradient(settings, name, separable=separable, product=product)
        error = tree.norm(tree.minus(found, reference)) / tree.norm(reference)
        rows.append(
            {
                "size": name,
                "mixed product": label,
                "by hand (ms)": milliseconds(samples[HAND]),
                MLO: against(samples, HAND)[MLO],
                "error": float(error),
            }
        )
    return rows


def gam_terms(gam: Any, assignments: Any, batch: Batch) -> Weighted:
    """Eq. 1: ``-C_nj log f_j(x_n)`` with j the group that row n of C names."""
    index, inputs, _ = batch
    probability, group = assignments(index).max(-1)
    log_f = gam(inputs).log_softmax(-1)
    return -log_f.gather(-1, group.unsqueeze(-1)).squeeze(-1), probability


def expert_terms(experts: Any, gam: Any, batch: Batch) -> Weighted:
    """Eq. 3, soft: ``Σ_k f_k(x_n) l(z_k(x_n), y_n)``; weights carry K, as the mean runs over k."""
    _, inputs, targets = batch
    losses = [cross_entropy(expert(inputs), targets, reduction="none") for expert in experts]
    return torch.stack(losses, dim=-1), gam(inputs).softmax(-1) * len(losses)


def validation_loss(gam: Any, experts: Any, batch: Batch) -> Tensor:
    """Eq. 4, soft."""
    losses, weights = expert_terms(experts, gam, batch)
    return (losses * weights).mean()


def _lbg(settings: Settings, name: str, dtype: torch.dtype) -> Lbg:
    size = SIZES[name]
    mlp = import_module(f"{PLUGIN}.models.perceptron").mlp
    assignments = import_module(f"{PLUGIN}.assignments").Assignments
    with seeded(settings.seed):
        inputs = torch.rand(2, size.examples, size.inputs, dtype=torch.float64)
        targets = torch.randint(size.classes, (2, size.examples))
        gam = mlp(size.inputs, size.hidden, size.groups)
        experts = [mlp(size.inputs, size.hidden, size.classes) for _ in range(size.groups)]
        rows = assignments(num_examples=size.examples, num_groups=size.groups)
    place = (settings.device, dtype)
    numbers = torch.arange(size.examples)

    def batches(half: int) -> list[Batch]:
        return [
            (i.to(settings.device), inputs[half, i].to(*place), targets[half, i].to(place[0]))
            for i in torch.split(numbers, size.batch)
        ]

    return Lbg(
        gam=gam.to(*place),
        experts=torch.nn.ModuleList(experts).to(*place),
        assignments=rows.to(*place),
        gam_terms=gam_terms,
        expert_terms=expert_terms,
        validation_loss=validation_loss,
        train=batches(0),
        validation=batches(1),
        gam_step=0.5,
        experts_step=3.0,
        learning_rates=(3e-3, 1e-2, 0.1),
    )


def _declared(lbg: Lbg, *, separable: bool, product: ProductName) -> mlo.Graph:
    """Return the plugin's own graph, its lower losses turned into plain numbers if wanted."""
    problems = import_module(f"{PLUGIN}.problems")
    graph: mlo.Graph = problems.three_levels(
        problems.Modules(gam=lbg.gam, experts=lbg.experts, assignments=lbg.assignments),
        problems.SearchSettings(
            routing=import_module(f"{PLUGIN}.routing").SOFT,
            gam_learning_rate=lbg.learning_rates[0],
            experts_learning_rate=lbg.learning_rates[1],
            assignments_learning_rate=lbg.learning_rates[2],
            gam_rate=lbg.gam_step,
            experts_rate=lbg.experts_step,
            product=product,
        ),
        gam_batches=lbg.train,
        expert_batches=lbg.train,
        validation_batches=lbg.validation,
    )
    if separable:
        return graph

    def gam_loss(gam: Any, assignments: Any, batch: Batch) -> Any:
        return mlo.weighted(*gam_terms(gam, assignments, batch)).value

    def experts_loss(experts: Any, gam: Any, batch: Batch) -> Any:
        return mlo.weighted(*expert_terms(experts, gam, batch)).value

    losses = {"gam": gam_loss, "experts": experts_loss}
    return mlo.Graph(*(replace(p, loss=losses.get(n, p.loss)) for n, p in graph.problems.items()))


def _by_mlo(
    settings: Settings, name: str, dtype: torch.dtype, separable: bool, product: ProductName
) -> Steps:
    lbg = _lbg(settings, name, dtype)
    engine = mlo.Engine(_declared(lbg, separable=separable, product=product), settings.device)

    def lower() -> None:
        engine.update("gam")
        engine.update("experts")

    return Steps(
        lower=lower,
        upper=lambda: engine.update("assignments"),
        optimizer=engine.optimizers["assignments"],
    )


def _by_hand(settings: Settings, name: str, dtype: torch.dtype, mixed: Mixed) -> Steps:
    return lbg_by_hand.build(_lbg(settings, name, dtype), mixed)


def _hypergradient(
    settings: Settings, name: str, *, separable: bool, product: ProductName
) -> tree.Params:
    """Return the hypergradient of C at the start, in float32."""
    lbg = _lbg(settings, name, torch.float32)
    graph = _declared(lbg, separable=separable, product=product)
    batches = dict(zip(LEVELS, (lbg.train[0], lbg.train[0], lbg.validation[0]), strict=True))
    return tree.dense(mlo.hypergradient(graph, LEVELS[-1], batches).gradient)
