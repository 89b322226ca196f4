"""Learning by Grouping for fairness: fair search, retraining, one threshold a group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

import mlo
from mlo_lbg.architecture import Architecture
from mlo_lbg.budget import Budget
from mlo_lbg.classifier import train_classifier
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples, Halves, divide
from mlo_lbg.diagnosis import Diagnosis
from mlo_lbg.fair.batches import FairBatches
from mlo_lbg.fair.objectives import equalized_odds, penalised
from mlo_lbg.fair.offsets import OffsetError, OffsetSettings, refit_offsets
from mlo_lbg.fair.predictor import Thresholds
from mlo_lbg.fair.problems import FairSettings, Offsets, fair_levels
from mlo_lbg.group_experts import fit_experts
from mlo_lbg.grouping import softmax_rows
from mlo_lbg.problems import Modules, SearchSettings, distributed
from mlo_lbg.routing import SOFT_MIXTURE
from mlo_lbg.search import search
from mlo_lbg.seeds import seeded, spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation
from mlo_lbg.watch import Observe, Watch, unobserved

Retrain = Callable[
    [Examples, Thresholds, Architecture, Optimisation, int, Trainer], Sequence[nn.Module]
]
"""`(train, found, architecture, optimisation, seed, trainer)` to K experts."""


def separate_experts(
    train: Examples,
    found: Thresholds,
    architecture: Architecture,
    optimisation: Optimisation,
    seed: int,
    trainer: Trainer,
) -> Sequence[nn.Module]:
    """One expert a group, on its own examples alone."""
    return list(
        fit_experts(
            train,
            found.groups(train.inputs),
            architecture.make_expert,
            optimisation,
            num_groups=architecture.num_groups,
            seed=seed,
            trainer=trainer,
        )
    )


def shared_network(
    train: Examples,
    _found: Thresholds,
    architecture: Architecture,
    optimisation: Optimisation,
    seed: int,
    trainer: Trainer,
) -> Sequence[nn.Module]:
    """All groups share `make_network`, and differ in their offsets only."""
    network = train_classifier(
        train, architecture.make_network, optimisation, seed=seed, trainer=trainer.within("network")
    )
    return [network] * architecture.num_groups


def _search_settings() -> SearchSettings:
    return SearchSettings(
        routing=SOFT_MIXTURE, gam_loss=distributed, gam_learning_rate=1e-2, experts_rate=0.1
    )


def _fair_settings() -> FairSettings:
    return FairSettings(objective=penalised(equalized_odds, weight=3.0))


@dataclass(frozen=True, kw_only=True)
class FairGrouping:
    """Everything that decides what fair grouping does, apart from data, networks and seed.

    Attributes:
        search: How the lower levels and C are optimised.
        fair: What the outermost problem seeks.
        budget: How long; patience is not used.
        validation_batch_size: Rows of a validation batch, large enough to hold positives of every
            attribute value.
        retrain: `shared_network` or `separate_experts`.
        optimisation: Of the retraining.
        offsets: How the thresholds are refitted; its error budget is the dial of the frontier.
        learned: False leaves C random: the control.
    """

    search: SearchSettings = field(default_factory=_search_settings)
    fair: FairSettings = field(default_factory=_fair_settings)
    budget: Budget = field(default_factory=lambda: Budget(rounds=300, batch_size=512))
    validation_batch_size: int = 1024
    retrain: Retrain = shared_network
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            learning_rate=3e-3, weight_decay=0.1, epochs=8, batch_size=256
        )
    )
    offsets: OffsetSettings = field(default_factory=OffsetSettings)
    learned: bool = True


def learn_fair_grouping(
    train: Examples,
    architecture: Architecture,
    settings: FairGrouping,
    *,
    seed: int,
    trainer: Trainer = ALONE,
    observe: Observe = unobserved,
) -> tuple[Thresholds, tuple[Diagnosis, ...]]:
    """Search for groups by a fair objective, retrain, and refit one threshold a group.

    The attribute of training examples is read by the outermost problem and by the refit; the
    predictor sees inputs only.

    Args:
        train: All training examples, of two classes.
        architecture: `make_gate` and `make_expert` for the search, and what retraining builds.
        settings: What to do.
        seed: Decides halves, initial weights and batches.
        trainer: How search and retraining are run.
        observe: Told the diagnosis of each search epoch, as it comes.

    Returns:
        The predictor, and the diagnosis after each epoch of the search.

    Raises:
        OffsetError: If there are more than two classes.
    """
    if train.num_classes != 2:
        raise OffsetError(f"num_classes: expected 2, got {train.num_classes}")
    halves_seed, init, order, refit = spawn(seed, 4)
    halves = divide(train, validation=0.5, seed=halves_seed)
    groups = architecture.num_groups
    with seeded(init):
        modules = Modules(
            gam=architecture.make_gate(),
            experts=nn.ModuleList(architecture.make_expert() for _ in range(groups)),
            assignments=softmax_rows(len(halves.train), groups),
        )
        for part in modules.parts():
            part.to(train.inputs.device)
        history = _search(
            modules, settings, halves, seed=order, trainer=trainer.within("search"), observe=observe
        )
    modules.gam.eval()
    zero = train.inputs.new_zeros(groups)
    found = Thresholds(gate=modules.gam, experts=list(modules.experts), offsets=zero)
    experts = settings.retrain(train, found, architecture, settings.optimisation, refit, trainer)
    retrained = Thresholds(gate=modules.gam, experts=experts, offsets=zero)
    return with_offsets(retrained, train, settings.offsets), history


def with_offsets(predictor: Thresholds, train: Examples, settings: OffsetSettings) -> Thresholds:
    """Return the same gate and experts with offsets refitted to training examples.

    Refitting takes a fraction of a second, so one training gives a whole frontier.

    Args:
        predictor: Its own offsets do not count.
        train: Training examples with their attribute.
        settings: Budget and grid.

    Raises:
        OffsetError: If there are more than two classes.
    """
    logits, groups = predictor.logits(train.inputs)
    offsets = refit_offsets(
        logits[:, 1] - logits[:, 0],
        groups,
        train.targets,
        train.attribute,
        num_groups=len(predictor.experts),
        settings=settings,
    )
    return Thresholds(gate=predictor.gate, experts=predictor.experts, offsets=offsets)


def _search(
    modules: Modules,
    settings: FairGrouping,
    halves: Halves,
    *,
    seed: int,
    trainer: Trainer,
    observe: Observe,
) -> tuple[Diagnosis, ...]:
    # With one group every row of C is 1 whatever its logits: there is nothing to learn.
    if not settings.learned or len(modules.experts) == 1:
        return search(
            modules,
            settings.search,
            halves,
            settings.budget,
            learned=False,
            seed=seed,
            trainer=trainer,
            observe=observe,
        )
    budget, size = settings.budget, settings.validation_batch_size
    lower, for_offsets, for_assignments = spawn(seed, 3)
    offsets = Offsets(num_groups=len(modules.experts), num_classes=halves.train.num_classes).to(
        halves.train.inputs.device
    )
    watch = Watch(modules, settings.search, halves, budget, record=trainer.record, observe=observe)
    trainer.run(
        fair_levels(
            modules,
            offsets,
            settings.search,
            settings.fair,
            # One seed, so one batch for both: a row of C hears how its own expert adapts.
            gam_batches=Batches(halves.train, size=budget.batch_size, seed=lower),
            expert_batches=Batches(halves.train, size=budget.batch_size, seed=lower),
            offset_batches=FairBatches(halves.validation, size=size, seed=for_offsets),
            validation_batches=FairBatches(halves.validation, size=size, seed=for_assignments),
        ),
        device=halves.train.inputs.device,
        until=budget.rounds,
        record_every=budget.rounds_per_epoch(halves),
        also={"watch": watch},
        callbacks=mlo.Callbacks(after_round=watch),
    )
    return tuple(watch.history)
