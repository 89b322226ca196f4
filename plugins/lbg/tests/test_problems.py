"""The three-level graph against autograd through explicit one-step updates, written by hand."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import mlo
from mlo.product import ProductName
from mlo_lbg import problems, routing
from mlo_lbg.assignments import Assignments
from mlo_lbg.data.batches import Batch
from mlo_lbg.problems import Modules, SearchSettings, frozen_assignments, three_levels
from mlo_lbg.routing import Routing

XI_T, XI_S = 0.7, 0.3
INPUTS, CLASSES, TRAIN, BATCH = 5, 4, 24, 9

Tree = dict[str, Tensor]


def network(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.Tanh(), nn.Linear(6, outputs)).double()


def program(num_groups: int, seed: int) -> tuple[Modules, dict[str, Batch]]:
    torch.manual_seed(seed)
    modules = Modules(
        gam=network(num_groups),
        experts=nn.ModuleList(network(CLASSES) for _ in range(num_groups)),
        assignments=Assignments(num_examples=TRAIN, num_groups=num_groups, scale=1.0).double(),
    )

    def batch() -> Batch:
        rows = torch.randperm(TRAIN)[:BATCH]
        return rows, torch.randn(BATCH, INPUTS).double(), torch.randint(CLASSES, (BATCH,))

    return modules, {"gam": batch(), "experts": batch(), "assignments": batch()}


def declare(modules: Modules, how: SearchSettings, batches: dict[str, Batch]) -> mlo.Graph:
    return three_levels(
        modules,
        how,
        gam_batches=[batches["gam"]],
        expert_batches=[batches["experts"]],
        validation_batches=[batches["assignments"]],
    )


def values(module: nn.Module) -> Tree:
    return {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}


def step(params: Tree, loss: Tensor, rate: float) -> Tree:
    """One update, re-centred: its value is the current point, its derivative that of the update."""
    found = torch.autograd.grad(loss, list(params.values()), create_graph=True, allow_unused=True)
    return {
        name: p - rate * (torch.zeros_like(p) if g is None else g - g.detach())
        for (name, p), g in zip(params.items(), found, strict=True)
    }


def all_logits(modules: Modules, experts: Tree, inputs: Tensor) -> Tensor:
    """`(K, batch, classes)`."""
    outputs = []
    for k, expert in enumerate(modules.experts):
        own = {n.split(".", 1)[1]: p for n, p in experts.items() if n.startswith(f"{k}.")}
        outputs.append(functional_call(expert, own, (inputs,)))
    return torch.stack(outputs)


def by_hand(modules: Modules, batches: dict[str, Batch], which: str, gam_loss: str) -> Tensor:
    """The dense gradient of the logits of C, from the equations alone."""
    gam, experts = values(modules.gam), values(modules.experts)
    logits = modules.assignments.all_rows().log().clone().requires_grad_()

    rows, inputs, _ = batches["gam"]
    assigned = logits[rows].softmax(-1)
    log_f = functional_call(modules.gam, gam, (inputs,)).log_softmax(-1)
    if gam_loss == "assigned":
        j = assigned.argmax(-1)
        n = torch.arange(BATCH)
        eq1 = -(assigned[n, j] * log_f[n, j]).mean()
    else:
        eq1 = -(assigned * log_f).sum(-1).mean()
    new_gam = step(gam, eq1, XI_T)

    _, inputs, targets = batches["experts"]
    f = functional_call(modules.gam, new_gam, (inputs,)).softmax(-1)
    answers = all_logits(modules, experts, inputs)
    n = torch.arange(BATCH)
    losses = torch.stack([cross_entropy(z, targets, reduction="none") for z in answers], -1)
    if which in ("soft", "soft, mixture"):
        eq3 = (f * losses).sum(-1).mean()
    else:
        top = f.argmax(-1)
        eq3 = (f[n, top] * losses[n, top]).mean()
    new_experts = step(experts, eq3, XI_S)

    _, inputs, targets = batches["assignments"]
    f = functional_call(modules.gam, new_gam, (inputs,)).softmax(-1)
    answers = all_logits(modules, new_experts, inputs)
    losses = torch.stack([cross_entropy(z, targets, reduction="none") for z in answers], -1)
    if which == "soft":
        eq4 = (f * losses).sum(-1).mean()
    elif which == "hard":
        top = f.argmax(-1)
        eq4 = cross_entropy(f[n, top].unsqueeze(-1) * answers[top, n], targets)
    else:
        eq4 = -torch.log((f * torch.exp(-losses)).sum(-1)).mean()
    (gradient,) = torch.autograd.grad(eq4, logits)
    return gradient


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


ROUTINGS = [routing.HARD, routing.HARD_MIXTURE, routing.SOFT, routing.SOFT_MIXTURE]
GAM_LOSSES = {"assigned": problems.assigned, "distributed": problems.distributed}


def how(
    which: Routing, gam_loss: str = "assigned", product: ProductName = "autograd"
) -> SearchSettings:
    return SearchSettings(
        routing=which,
        gam_loss=GAM_LOSSES[gam_loss],
        gam_rate=XI_T,
        experts_rate=XI_S,
        product=product,
    )


@pytest.mark.parametrize("gam_loss", GAM_LOSSES)
@pytest.mark.parametrize("which", ROUTINGS, ids=lambda r: r.label)
@settings(max_examples=10, deadline=None)
@given(num_groups=st.integers(2, 4), seed=st.integers(0, 10_000))
def test_the_sweep_equals_autograd_through_the_one_step_updates(
    which: Routing, gam_loss: str, num_groups: int, seed: int
) -> None:
    """Done when 5: float64, double backward, 1e-10."""
    modules, batches = program(num_groups, seed)
    found = mlo.hypergradient(
        declare(modules, how(which, gam_loss), batches), "assignments", batches
    )
    expected = by_hand(modules, batches, which.label, gam_loss)
    assert relative_error(found.gradient["logits.weight"].to_dense(), expected) < 1e-10


@pytest.mark.parametrize("gam_loss", GAM_LOSSES)
@pytest.mark.parametrize("which", ROUTINGS, ids=lambda r: r.label)
def test_first_order_products_are_exact_too_as_both_lower_losses_are_separable(
    which: Routing, gam_loss: str
) -> None:
    """No difference is taken: a weighted loss has a forward-mode pass instead."""
    modules, batches = program(3, 0)
    expected = by_hand(modules, batches, which.label, gam_loss)
    graph = declare(modules, how(which, gam_loss, "finite_difference"), batches)
    found = mlo.hypergradient(graph, "assignments", batches)
    assert relative_error(found.gradient["logits.weight"].to_dense(), expected) < 1e-10


def test_dropping_the_experts_response_changes_the_direction() -> None:
    """Both paths matter: the test above would not notice a path that is always zero."""
    modules, batches = program(3, 1)
    graph = declare(modules, how(routing.SOFT), batches)
    whole = mlo.hypergradient(graph, "assignments", batches).gradient["logits.weight"].to_dense()
    tiny = SearchSettings(routing=routing.SOFT, gam_rate=XI_T, experts_rate=1e-9)
    graph = declare(modules, tiny, batches)
    direct = mlo.hypergradient(graph, "assignments", batches).gradient["logits.weight"].to_dense()
    assert relative_error(direct, whole) > 1e-3


def test_rows_outside_the_gam_batch_do_not_move() -> None:
    """The gradient of C is sparse and SparseAdam leaves absent rows bitwise as they are."""
    modules, batches = program(3, 2)
    before = modules.assignments.logits.weight.detach().clone()
    engine = mlo.Engine(declare(modules, how(routing.SOFT), batches), device="cpu")
    engine.run(3, show_progress=False)
    moved = (modules.assignments.logits.weight.detach() != before).any(-1)
    present = torch.zeros(TRAIN, dtype=torch.bool)
    present[batches["gam"][0]] = True
    assert torch.equal(moved, present)


def test_the_indices_carry_no_gradient_but_every_entry_of_a_row_moves() -> None:
    """Through the softmax, dG/dL reaches all K entries of a row."""
    modules, batches = program(3, 3)
    graph = declare(modules, how(routing.HARD), batches)
    found = mlo.hypergradient(graph, "assignments", batches).gradient["logits.weight"].to_dense()
    touched = found[batches["gam"][0]]
    assert (touched != 0).all()
    assert torch.allclose(touched.sum(-1), torch.zeros(BATCH).double(), atol=1e-15)


def plain_training(expert: nn.Module, batches: list[Batch], rate: float) -> None:
    optimizer = torch.optim.Adam(expert.parameters(), lr=rate)
    for _, inputs, targets in batches:
        optimizer.zero_grad()
        cross_entropy(expert(inputs), targets).backward()
        optimizer.step()


Declare = Callable[[Modules, SearchSettings, list[Batch]], mlo.Graph]


def _three(modules: Modules, how_: SearchSettings, batches: list[Batch]) -> mlo.Graph:
    return three_levels(
        modules, how_, gam_batches=batches, expert_batches=batches, validation_batches=batches
    )


def _two(modules: Modules, how_: SearchSettings, batches: list[Batch]) -> mlo.Graph:
    return frozen_assignments(modules, how_, gam_batches=batches, expert_batches=batches)


@pytest.mark.filterwarnings("ignore::mlo.response_warning.ResponseWarning")
@pytest.mark.parametrize("declare_", [_three, _two])
@pytest.mark.parametrize("which", ROUTINGS, ids=lambda r: r.label)
def test_one_group_is_plain_training(which: Routing, declare_: Declare) -> None:
    """Done when 6: with K = 1 the expert's weights follow plain training."""
    modules, _ = program(1, 4)
    batches = [program(1, seed)[1]["experts"] for seed in range(12)]
    reference = network(CLASSES)
    reference.load_state_dict(modules.experts[0].state_dict())
    engine = mlo.Engine(declare_(modules, how(which), batches), device="cpu")
    engine.run(len(batches), show_progress=False)
    plain_training(reference, batches, rate=1e-2)
    for name, expected in reference.state_dict().items():
        found = modules.experts[0].state_dict()[name]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
