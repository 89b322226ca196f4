"""Learning by Grouping: search for groups, then train one expert for each."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from mlo_lbg.architecture import Architecture
from mlo_lbg.assignments import Assignments, ClippedAssignments
from mlo_lbg.budget import Budget
from mlo_lbg.data.dataset import Examples, divide
from mlo_lbg.diagnosis import Diagnosis
from mlo_lbg.group_experts import fit_experts
from mlo_lbg.predictors import TopOne
from mlo_lbg.problems import Modules, SearchSettings
from mlo_lbg.search import search
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation
from mlo_lbg.watch import Observe, unobserved

MakeAssignments = Callable[[int, int], Assignments | ClippedAssignments]
"""`(examples, K)` to assignments."""


def softmax_rows(num_examples: int, num_groups: int) -> Assignments:
    """Rows on the simplex.

    >>> softmax_rows(3, 2).all_rows().shape
    torch.Size([3, 2])
    """
    return Assignments(num_examples=num_examples, num_groups=num_groups)


def clipped_rows(num_examples: int, num_groups: int) -> ClippedAssignments:
    """Entries clipped to `[0, 1]`.

    >>> clipped_rows(3, 2).all_rows().shape
    torch.Size([3, 2])
    """
    return ClippedAssignments(num_examples=num_examples, num_groups=num_groups)


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Everything that decides what LBG does, apart from data, networks and seed.

    Attributes:
        search: How the three levels are optimised.
        budget: How long.
        retrain: How the final experts are trained.
        make_assignments: How C is parametrised.
        learned: False leaves C random: the control.
    """

    search: SearchSettings
    budget: Budget = field(default_factory=Budget)
    retrain: Optimisation = field(default_factory=Optimisation)
    make_assignments: MakeAssignments = softmax_rows
    learned: bool = True


def learn_by_grouping(
    train: Examples,
    architecture: Architecture,
    grouping: Grouping,
    *,
    seed: int,
    trainer: Trainer = ALONE,
    observe: Observe = unobserved,
) -> tuple[TopOne, tuple[Diagnosis, ...]]:
    """Search on two halves of the training examples, then retrain experts on all of them.

    In retraining the GAM is frozen and dispatches each example to the expert of its top group;
    experts start afresh. So training and prediction route alike.

    Args:
        train: All training examples; the attribute is only measured.
        architecture: `make_gate` builds the GAM, `make_expert` each expert.
        grouping: What to do.
        seed: Decides halves, initial weights and batches.
        trainer: How search and retraining are run.
        observe: Told the diagnosis of each search epoch, as it comes.

    Returns:
        The predictor, and the diagnosis after each epoch of the search.

    References:
        Learning by Grouping, arXiv 2304.00486.
    """
    halves_seed, init, order, refit = spawn(seed, 4)
    halves = divide(train, validation=0.5, seed=halves_seed)
    with seeded(init):
        modules = _build(architecture, grouping, len(halves.train))
        for part in modules.parts():
            part.to(train.inputs.device)
        history = search(
            modules,
            grouping.search,
            halves,
            grouping.budget,
            learned=grouping.learned,
            seed=order,
            trainer=trainer.within("search"),
            observe=observe,
        )
    modules.gam.eval()
    found = TopOne(gate=modules.gam, experts=list(modules.experts)).groups(train.inputs)
    experts = fit_experts(
        train,
        found,
        architecture.make_expert,
        grouping.retrain,
        num_groups=architecture.num_groups,
        seed=refit,
        trainer=trainer,
    )
    return TopOne(gate=modules.gam, experts=list(experts)), history


def _build(architecture: Architecture, grouping: Grouping, num_examples: int) -> Modules:
    groups = architecture.num_groups
    gam, remedy = architecture.make_gate(), grouping.search.remedy
    return Modules(
        gam=gam if remedy is None else remedy.wrap(gam, groups),
        experts=nn.ModuleList(architecture.make_expert() for _ in range(groups)),
        assignments=grouping.make_assignments(num_examples, groups),
    )
