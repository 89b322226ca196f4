"""The first phase of LBG: train the three levels together and watch the groups."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

import mlo
from mlo.errors import MloError
from mlo_lbg import diagnostics
from mlo_lbg.assignments import ClippedAssignments
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples, Halves
from mlo_lbg.problems import Modules, SearchSettings, frozen_assignments, three_levels
from mlo_lbg.seeds import spawn


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a search runs.

    Attributes:
        rounds: Updates of the outermost problem at most.
        batch_size: Examples in every batch.
        patience: Stop after so many epochs without a lower validation loss and go back to the best
            epoch; None to run all rounds and keep the last.

    Raises:
        MloError: If a number is out of range.
    """

    rounds: int = 600
    batch_size: int = 64
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MloError(f"search: {name} must be >= 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The state of the groups after an epoch; entropies in nats.

    The two `nmi_attribute` and `nmi_label` and everything else are measured on the training half,
    `validation_loss` on the validation half.

    Attributes:
        round: Rounds done.
        epoch: Epochs done; an epoch is one pass over the training half.
        losses: Last batch loss of each problem.
        validation_loss: Eq. 4 over the whole validation half.
        load: Share of each group by the GAM.
        row_entropy: Mean entropy of the rows of C.
        mean_row_entropy: Entropy of the mean row of C.
        mean_gam_entropy: Entropy of the mean of f.
        flip_rate: Share of rows whose group in C changed since the last epoch.
        agreement: Share of examples whose group by the GAM is their group in C.
        confidence: Mean of E.
        nmi_attribute: NMI of the GAM's group and the attribute.
        nmi_label: NMI of the GAM's group and the label.
    """

    round: int
    epoch: int
    losses: dict[str, float]
    validation_loss: float
    load: tuple[float, ...]
    row_entropy: float
    mean_row_entropy: float
    mean_gam_entropy: float
    flip_rate: float
    agreement: float
    confidence: float
    nmi_attribute: float
    nmi_label: float


Observe = Callable[[Diagnosis], None]


def unobserved(diagnosis: Diagnosis) -> None:
    """Ignore a diagnosis."""


def search(
    modules: Modules,
    settings: SearchSettings,
    halves: Halves,
    budget: Budget,
    *,
    learned: bool = True,
    seed: int,
    observe: Observe = unobserved,
) -> None:
    """Train GAM, experts and assignments in place.

    Args:
        modules: What is trained, on the device of the examples.
        settings: How.
        halves: Training half, whose rows C addresses, and validation half.
        budget: How long.
        learned: False leaves C as it is: the control that shows what learning C is worth.
        seed: Decides the batches.
        observe: Told the diagnosis after each epoch.

    Raises:
        NonFiniteError: If a loss or gradient is not finite.
    """
    engine = mlo.Engine(
        _declare(modules, settings, halves, budget, learned=learned, seed=seed),
        device=halves.train.inputs.device,
    )
    rounds_per_epoch = max(1, -(-len(halves.train) // budget.batch_size))
    best_loss, best_epoch, best = float("inf"), 0, _state(modules)
    groups = modules.assignments.all_rows().argmax(-1)
    for done in _every(engine.rounds(budget.rounds), rounds_per_epoch, modules):
        epoch = -(-done.number // rounds_per_epoch)
        before, groups = groups, modules.assignments.all_rows().argmax(-1)
        diagnosis = diagnose(modules, settings, halves, done, epoch=epoch, before=before)
        observe(diagnosis)
        if budget.patience is None:
            continue
        if diagnosis.validation_loss < best_loss:
            best_loss, best_epoch, best = diagnosis.validation_loss, epoch, _state(modules)
        elif epoch - best_epoch >= budget.patience:
            break
    if budget.patience is not None:
        for module, state in zip(_parts(modules), best, strict=True):
            module.load_state_dict(state)


def _declare(
    modules: Modules,
    settings: SearchSettings,
    halves: Halves,
    budget: Budget,
    *,
    learned: bool,
    seed: int,
) -> mlo.Graph:
    def batches(examples: Examples, stream: int) -> Batches:
        return Batches(examples, size=budget.batch_size, seed=stream)

    for_training, for_assignments = spawn(seed, 2)
    # One seed, so one batch for both: a row of C then hears how its own example's expert adapts.
    gam_batches = batches(halves.train, for_training)
    expert_batches = batches(halves.train, for_training)
    # With one group every row of C is 1 whatever its logits: there is nothing to learn.
    if not learned or modules.assignments.all_rows().shape[-1] == 1:
        return frozen_assignments(
            modules, settings, gam_batches=gam_batches, expert_batches=expert_batches
        )
    return three_levels(
        modules,
        settings,
        gam_batches=gam_batches,
        expert_batches=expert_batches,
        validation_batches=batches(halves.validation, for_assignments),
    )


def _every(rounds: Iterator[mlo.Round], period: int, modules: Modules) -> Iterator[mlo.Round]:
    """Yield the last round of each period, and the very last."""
    last = None
    for last in rounds:
        if isinstance(modules.assignments, ClippedAssignments):
            modules.assignments.project()
        if last.number % period == 0:
            yield last
    if last is not None and last.number % period:
        yield last


@torch.no_grad()
def diagnose(
    modules: Modules,
    settings: SearchSettings,
    halves: Halves,
    done: mlo.Round,
    *,
    epoch: int,
    before: Tensor,
) -> Diagnosis:
    """Measure the groups as they are, every module in evaluation mode.

    Args:
        modules: What is being trained.
        settings: Its routing gives the validation loss.
        halves: Training and validation half.
        done: The last round.
        epoch: Epochs done.
        before: `(examples,)` groups in C one epoch ago.
    """
    modes = [(m, m.training) for part in _parts(modules) for m in part.modules()]
    for part in _parts(modules):
        part.eval()
    train, validation = halves
    probabilities = modules.gam(train.inputs).softmax(-1)
    routed = settings.routing.validation(
        modules.gam(validation.inputs), list(modules.experts), validation.inputs, validation.targets
    )
    for module, training in modes:
        module.training = training
    rows = modules.assignments.all_rows()
    chosen, assigned = probabilities.argmax(-1), rows.argmax(-1)
    # Clipped rows need not sum to 1.
    shares = rows / rows.sum(-1, keepdim=True).clamp_min(1e-12)
    return Diagnosis(
        round=done.number,
        epoch=epoch,
        losses={name: float(loss) for name, loss in done.losses.items()},
        validation_loss=float(routed.mean()),
        load=tuple(diagnostics.load(chosen, rows.shape[-1]).tolist()),
        row_entropy=float(diagnostics.mean_entropy(shares)),
        mean_row_entropy=float(diagnostics.entropy_of_mean(shares)),
        mean_gam_entropy=float(diagnostics.entropy_of_mean(probabilities)),
        flip_rate=float(diagnostics.flip_rate(before, assigned)),
        agreement=float(diagnostics.agreement(chosen, assigned)),
        confidence=float(diagnostics.mean_confidence(probabilities)),
        nmi_attribute=diagnostics.nmi(chosen, train.attribute),
        nmi_label=diagnostics.nmi(chosen, train.targets),
    )


def _parts(modules: Modules) -> list[torch.nn.Module]:
    return [modules.gam, modules.experts, modules.assignments]


def _state(modules: Modules) -> list[dict[str, Tensor]]:
    return [deepcopy(part.state_dict()) for part in _parts(modules)]
